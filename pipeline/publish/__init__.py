"""A cell's weights as a model folder for timm, with its card; the hub."""
