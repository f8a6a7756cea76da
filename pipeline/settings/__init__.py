"""Cells of the grid, their resolved settings, dvc.yaml of a paper pipeline."""
