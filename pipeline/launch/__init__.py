"""Many cells at once: Ray, SLURM, local processes, nodes that share nothing."""
