"""The training loop (loop.py), learner, epoch means, monitor, alerts, held-out monitor."""
