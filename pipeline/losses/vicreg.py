"""VICReg: variance, invariance, covariance.

Shapes: V views, N images of all processes, K projection. For two views Z and Z' (N, K):

    loss = invariance * s(Z, Z') + variance * (v(Z) + v(Z')) + covariance * (c(Z) + c(Z'))
    s = mean over images and dimensions of (Z - Z')^2
    v = mean_j max(0, 1 - sqrt(var_j + 1e-4)),   c = 1/K sum of the squared covariances off the diagonal, over N - 1

For V views s is the mean over pairs of a global view with any other; v and c are twice their mean over views.

Source: Bardes, Ponce & LeCun, arXiv 2105.04906, Algorithm 1 (25, 25, 1). Equation 5 sums s over dimensions, the
algorithm, to which the weights belong, averages; the authors' code halves the variance term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from pipeline.losses.projected import Objective, Projected, check_not_negative

EPSILON = 1e-4


@dataclass(frozen=True)
class VICReg(Objective):
    """Settings: the weights of the three terms."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    fixes_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the weights."""
        check_not_negative(invariance=self.invariance, variance=self.variance, covariance=self.covariance)

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return the loss and its weighted terms."""
        z = seen.projections
        distances = [(z[first] - z[second]).square().mean() for first, second in seen.pairs()]
        centred = z - z.mean(-2, keepdim=True)
        covariance = centred.transpose(-1, -2) @ centred / (z.shape[-2] - 1)
        std = (covariance.diagonal(dim1=-2, dim2=-1) + EPSILON).sqrt()
        off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        terms = {
            "invariance_loss": self.invariance * torch.stack(distances).mean(),
            "variance_loss": self.variance * 2 * relu(1 - std).mean(),
            "covariance_loss": self.covariance * 2 * off_diagonal.square().sum((-2, -1)).mean() / z.shape[-1],
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
