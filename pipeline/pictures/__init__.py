"""Feature maps, attention, nearest neighbours, t-SNE, sheets of images."""
