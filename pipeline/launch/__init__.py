"""Many cells at once: the programs of their stages on Ray, SLURM or this machine, recorded by DVC meanwhile."""
