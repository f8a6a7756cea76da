"""Which images a frozen encoder finds typical, and whether it tells foreign images from those of its own data set."""
