"""Seeds, learning-rate schedule, checkpoints, and the files of a cell."""
