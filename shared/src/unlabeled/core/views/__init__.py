"""Views that any domain may use, beside its own."""
