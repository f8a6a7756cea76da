"""Schema of params.yaml, cells of the grid, resolved settings, dvc.yaml of a paper pipeline."""
