"""Packed data sets: the data loader, views cut from photographs, shuffling, checks before training."""
