"""Learning-rate schedule: linear warm-up, then cosine."""

from __future__ import annotations

import math


def lr_factor(step: int, *, num_steps: int, num_warmup_steps: int, final_frac: float) -> float:
    """Return the learning rate of a step as a fraction of the peak.

    Args:
        step: 0 .. num_steps - 1.
        num_steps: steps of the whole run.
        num_warmup_steps: the rate rises linearly over these and is at its peak right after.
        final_frac: value at the last step, in [0, 1].

    Source: LeJEPA, arXiv 2511.08544 (linear warm-up, cosine to lr / 1000).
    """
    if step < num_warmup_steps:
        return (step + 1) / (num_warmup_steps + 1)
    progress = (step - num_warmup_steps) / max(num_steps - 1 - num_warmup_steps, 1)
    return final_frac + (1 - final_frac) * 0.5 * (1 + math.cos(math.pi * progress))
