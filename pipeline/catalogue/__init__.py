"""Schema of data sets and frozen models in params.yaml; messages of validation."""
