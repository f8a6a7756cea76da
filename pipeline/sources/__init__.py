"""Data sets: download, read, split, pack; a user's own files as dependencies."""
