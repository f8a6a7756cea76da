"""Supervised training: cross-entropy of a linear classifier on the projections of every view; an upper bound.

It shares views, backbone, projector, optimiser and probes with the self-supervised objectives, and sees the labels of
the training images. The classifier is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.losses.projected import Objective, Projected


@dataclass(frozen=True)
class Supervised(Objective):
    """Settings: label smoothing, in [0, 1)."""

    label_smoothing: float = 0.0

    min_views: ClassVar[int] = 1
    needs_labels: ClassVar[bool] = True
    needs_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the smoothing."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing:g}")

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return the cross-entropy, mean over views and images."""
        logits, labels = seen.predictions, seen.labels
        assert logits is not None and labels is not None
        labels = labels.expand(len(logits), -1).flatten()
        return {"loss": cross_entropy(logits.flatten(0, 1), labels, label_smoothing=self.label_smoothing)}

    def head(self, proj_dim: int, num_classes: int) -> nn.Module:
        """Return the classifier."""
        return nn.Linear(proj_dim, num_classes)
