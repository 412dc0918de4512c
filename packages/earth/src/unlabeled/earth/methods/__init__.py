"""Methods of the field: one file is one paper, one short class that calls parts."""
