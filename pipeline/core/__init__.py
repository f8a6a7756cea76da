"""Seeds, learning-rate schedule, checkpoints, the files of a cell; distributed/: devices, collectives, torchrun."""
