"""The kinds of task, one file each. R records, N items, K classes, G groups, S the grid of a record."""
