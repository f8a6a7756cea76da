"""Packed data sets: the data loader, decoding workers, shuffling, checks before training."""
