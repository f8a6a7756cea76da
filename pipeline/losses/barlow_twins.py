"""Barlow Twins: the cross-correlation of two views, pulled to the identity.

Shapes: N images of all processes, K projection. For two views, centred over the batch:

    C_ij = sum_n Z_ni Z'_nj / (|Z_i| |Z'_j|),   loss = sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2

For V views it is the mean over pairs of a global view with any other.

Source: Zbontar et al., arXiv 2103.03230 (5e-3, which that paper calls lambda).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.losses.projected import Objective, Projected


@dataclass(frozen=True)
class BarlowTwins(Objective):
    """Settings: the weight of the correlations off the diagonal."""

    redundancy: float = 5e-3

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return the loss, and its terms: of the diagonal and, weighted, off it."""
        z = seen.projections
        columns = normalize(z - z.mean(-2, keepdim=True), dim=-2)
        correlations = torch.stack([columns[first].T @ columns[second] for first, second in seen.pairs()])
        diagonal = correlations.diagonal(dim1=-2, dim2=-1)
        on = (1 - diagonal).square().sum(-1).mean()
        off = self.redundancy * (correlations - torch.diag_embed(diagonal)).square().sum((-2, -1)).mean()
        return {"loss": on + off, "invariance_loss": on, "redundancy_loss": off}
