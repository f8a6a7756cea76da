"""Cost of a run before it runs."""
