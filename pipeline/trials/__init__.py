"""Objectives side by side: each tuned by the same grid on held-out training images, then trained with several seeds."""
