"""Figures 3, 6, 7, 13, 20 and Table 6 of the paper, known densities: measurements without a grid."""
