"""Out-of-distribution scores: JEPA-SCORE, Jacobians, baselines, AUROC."""
