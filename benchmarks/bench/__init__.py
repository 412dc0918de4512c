"""How fast and how large: our work beside a named peer's, in turns in one process. One row is one file of `rows`."""
