"""Cost of pipelines before they run: cells, time on this machine, disk, downloads."""
