"""Errors, files, progress bars, the clone and its DVC projects, provenance, signals: no number depends on them."""
