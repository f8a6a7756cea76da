"""What an objective of a run is, and what it sees of one step.

Legend: V views (Vg global), B images of all processes, K projection, C outputs of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.core.distributed.collectives import gather_samples


@dataclass(frozen=True)
class Projected:
    """One step of a run.

    Attributes:
        projections: (V, B, K), the global views first.
        num_global: Vg, 1 to V.
        lamb: lambda of the cell.
        seed: of what an objective draws at random, equal on every rank.
        step: the optimiser step, >= 0.
        predictions: (V, B, C), what the objective's head makes of the projections; None without a head.
        targets: (Vg, B, K), projections of the global views by the averaged encoder, without gradient; None without.
        labels: (B,) int64; None where they are not needed.
    """

    projections: Tensor
    num_global: int
    lamb: float
    seed: int
    step: int
    predictions: Tensor | None = None
    targets: Tensor | None = None
    labels: Tensor | None = None

    def over_ranks(self) -> Projected:
        """Return the step with the images of all processes, in float32 at least.

        Every rank then computes the same value and, by the convention of `distributed.collectives`, the gradient of one
        process on the concatenated batch.
        """
        labels = None
        if self.labels is not None:
            labels = gather_samples(self.labels.to(self.projections.device).unsqueeze(-1)).squeeze(-1)
        projections = gather_samples(_exact(self.projections))
        made = (self.predictions, self.targets)
        predictions, targets = (None if z is None else gather_samples(_exact(z)) for z in made)
        return Projected(projections, self.num_global, self.lamb, self.seed, self.step, predictions, targets, labels)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield every pair of two views of which one is global at least, once: for two global views (0, 1)."""
        for first, second in combinations(range(len(self.projections)), 2):
            if first < self.num_global:
                yield first, second

    def pred_loss(self) -> Tensor:
        """Return LeJEPA's prediction loss: the mean squared distance from the mean of the global views.

        Of the predictions, where a head makes them; to the mean target, where an averaged encoder makes them.
        """
        globals_ = self.projections[: self.num_global] if self.targets is None else self.targets
        predictions = self.projections if self.predictions is None else self.predictions
        return (globals_.mean(0) - predictions).square().mean()


class Objective:
    """Base of all objectives; the fields of a frozen dataclass are its settings, with the paper's defaults.

    An instance is called with a step and returns {name: scalar}: first `loss`, which is minimised, then its parts as
    history.csv and the tables name them. A field out of range raises ValueError in `__post_init__`.
    """

    uses_lambda: ClassVar[bool] = False
    """Whether lambda weighs a regulariser: loss = (1 - lambda) * pred_loss + lambda * regulariser."""
    sums_samples: ClassVar[bool] = False
    """Whether the regulariser grows with the number N of images, as N times a mean does (`losses.conventions`)."""
    min_views: ClassVar[int] = 2
    """Views an image at least: one global view and so many in all."""
    fixes_scale: ClassVar[bool] = False
    """Whether it pulls each dimension of the projections to variance 1: a small one is then a collapse."""
    needs_labels: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    """Whether `head` returns a module, which trains with backbone and projector and makes the predictions."""
    sums_over_ranks: ClassVar[bool] = False
    """Whether it sums over processes itself; the others get the images of all processes."""

    @property
    def needs_projections_alone(self) -> bool:
        """Whether projections suffice to measure it, on images of any set."""
        return not self.needs_head and not self.needs_labels and self.target_decay(0.0) is None

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return the loss and its parts."""
        raise NotImplementedError

    def head(self, proj_dim: int, num_classes: int) -> nn.Module | None:
        """Return the module (M, K) -> (M, C) that makes the predictions of a run."""
        return None

    def target_decay(self, progress: float) -> float | None:
        """Return the decay of the averaged encoder that makes the targets; None: there is none.

        Args:
            progress: steps done over steps of the run, in [0, 1).
        """
        return None


class Regularised(Objective):
    """LeJEPA's prediction loss and a regulariser of each view's projections, weighed by lambda."""

    uses_lambda: ClassVar[bool] = True
    fixes_scale: ClassVar[bool] = True
    min_views: ClassVar[int] = 1

    def regularisers(self, seen: Projected) -> dict[str, Tensor]:
        """Return the weighted terms of the regulariser by name; their sum is the regulariser."""
        raise NotImplementedError

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return loss = (1 - lambda) * pred_loss + lambda * sum of the terms, pred_loss and the terms."""
        pred_loss, terms = seen.pred_loss(), self.regularisers(seen)
        total = torch.stack(list(terms.values())).sum()
        return {"loss": (1 - seen.lamb) * pred_loss + seen.lamb * total, "pred_loss": pred_loss, **terms}


def check_positive(**settings: float) -> None:
    """Raise ValueError for a setting that is not > 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value:g}")


def check_not_negative(**settings: float) -> None:
    """Raise ValueError for a setting that is not >= 0."""
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value:g}")


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
