"""What a backbone sees, as pictures: last-layer features, attention, neighbours, a map of its embedding."""
