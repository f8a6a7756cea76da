"""Device and precision, collectives, batch norm over processes, torchrun."""
