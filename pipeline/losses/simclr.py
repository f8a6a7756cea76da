"""SimCLR: each view of an image is to be told from all other images of the batch by the other view.

Shapes: N images of all processes, K projection. The 2 N projections of two views, on the unit sphere, have similarities
s_ij; NT-Xent is the mean over all i, with the other view j(i) of the same image, of

    -log( exp(s_i,j(i) / temperature) / sum_{k != i} exp(s_ik / temperature) )

For V views it is the mean over pairs of a global view with any other; the negatives are those of the pair.

Source: Chen et al., arXiv 2002.05709, equation 1. Temperature 0.5 is the paper's for CIFAR-10, 0.1 for ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from pipeline.losses.projected import Objective, Projected, check_positive


@dataclass(frozen=True)
class SimCLR(Objective):
    """Settings: the temperature."""

    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Check the temperature."""
        check_positive(temperature=self.temperature)

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return NT-Xent, mean over pairs of views."""
        z = normalize(seen.projections, dim=-1)
        losses = [self._nt_xent(torch.cat([z[first], z[second]])) for first, second in seen.pairs()]
        return {"loss": torch.stack(losses).mean()}

    def _nt_xent(self, z: Tensor) -> Tensor:
        """Return NT-Xent of unit vectors (2 N, K), the first views of all images before the second."""
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return cross_entropy(logits, partner)
