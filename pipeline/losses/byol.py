"""BYOL: a predictor on one view guesses the projection of another by a slowly moving average of the encoder.

Shapes: V views (Vg global), N images of all processes, K projection. With q the predictions and y the targets, both on
the unit sphere, of two views:

    loss = mean |q - y'|^2 + mean |q' - y|^2,   target <- decay * target + (1 - decay) * encoder after each step

The decay rises from its first value to 1: 1 - (1 - decay) (cos(pi step / steps) + 1) / 2. For V views the loss is twice
the mean over pairs of a global view's target with the prediction of any other view.

Source: Grill et al., arXiv 2006.07733 (decay 0.996, predictor of 4,096 hidden units). The target starts as a copy of
backbone and projector; its BatchNorm normalises over the batch, as theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.losses.projected import Objective, Projected, check_positive


@dataclass(frozen=True)
class BYOL(Objective):
    """Settings: the first decay of the target, in [0, 1], and the width of the predictor."""

    decay: float = 0.996
    hidden_dim: int = 4096

    needs_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check decay and width."""
        check_positive(hidden_dim=self.hidden_dim)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay:g}")

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return the loss."""
        assert seen.predictions is not None and seen.targets is not None
        predictions, targets = normalize(seen.predictions, dim=-1), normalize(seen.targets, dim=-1)
        distances = [
            (predictions[view] - target).square().sum(-1).mean()
            for place, target in enumerate(targets)
            for view in range(len(predictions))
            if view != place
        ]
        return {"loss": 2 * torch.stack(distances).mean()}

    def head(self, proj_dim: int, num_classes: int) -> nn.Module:
        """Return the predictor: Linear, BatchNorm, ReLU, Linear."""
        hidden = self.hidden_dim
        return nn.Sequential(
            nn.Linear(proj_dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, proj_dim)
        )

    def target_decay(self, progress: float) -> float:
        """Return the decay, which rises with the part of the run that is done."""
        return 1 - (1 - self.decay) * (math.cos(math.pi * progress) + 1) / 2
