"""MLflow: the store, live and finished runs, differences from the files."""
