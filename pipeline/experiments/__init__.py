"""Experiments of the paper that need no data set or only pictures: figures 3, 6, 7, 13, 20 and table 6."""
