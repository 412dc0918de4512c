"""Curation: what of a folder to pretrain on. Every step says of each item whether it is kept, and why."""
