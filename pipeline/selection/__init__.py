"""Model selection without labels: criteria, correlation with accuracy, selected runs."""
