"""Packed data sets: loader, views of photographs, shuffling, checks; views/: multi-crop views of whole batches."""
