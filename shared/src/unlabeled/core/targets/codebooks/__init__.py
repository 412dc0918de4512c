"""Codebooks: a finite set of entries, and for every feature the number of one of them."""
