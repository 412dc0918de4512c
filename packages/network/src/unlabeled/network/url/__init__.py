"""URLs: parts, tokens, views, lists."""
