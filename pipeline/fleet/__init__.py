"""Many cells at once, on engines that exist: Ray, and SLURM through submitit."""
