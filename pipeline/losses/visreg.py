"""VISReg: the shape of the projections by sliced Wasserstein, their scale and centre apart.

Shapes: V views, N images of all processes, K projection, S slices. Of each view Z (N, K), mean over views:

    centre = mean_j m_j^2                    m_j mean and s_j standard deviation (over N - 1) of dimension j
    scale  = mean_j (1 - s_j)^2
    shape  = mean over slices a and ranks i of (x_(i) - q_i)^2,   x = ((Z - m) / s) a, q_i normal quantile of i/(N+1)

The shape sees s as a constant, so that its gradient leaves the scale alone. Every term is a mean, so that lambda does
not depend on the batch.

Source: Wu, Balestriero & Levine, "VISReg", arXiv 2606.02572. Its settings for ImageNet-1k have lambda 0.9, 4,096 slices
and weights of 1. Views are regularised one by one, as LeJEPA does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.losses.lejepa import directions_for_step
from pipeline.losses.projected import Projected, Regularised, check_not_negative, check_positive


@dataclass(frozen=True)
class VISReg(Regularised):
    """Settings: slices S of the shape, and the weights of the three terms."""

    num_slices: int = 4096
    shape: float = 1.0
    scale: float = 1.0
    centre: float = 1.0

    def __post_init__(self) -> None:
        """Check the slices and weights."""
        check_positive(num_slices=self.num_slices)
        check_not_negative(shape=self.shape, scale=self.scale, centre=self.centre)

    def regularisers(self, seen: Projected) -> dict[str, Tensor]:
        """Return shape, scale and centre."""
        z = seen.projections
        directions = directions_for_step(seen.seed, seen.step, z.shape[-1], self.num_slices, device=z.device)
        shape, scale, centre = visreg_terms(z, directions.to(z.dtype))
        return {
            "shape_loss": self.shape * shape,
            "scale_loss": self.scale * scale,
            "centre_loss": self.centre * centre,
        }


def visreg_terms(projections: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shape, scale and centre, scalars, of projections (V, N, K) with N >= 2 and directions (K, S)."""
    num_samples = projections.shape[-2]
    mean = projections.mean(-2, keepdim=True)
    centred = projections - mean
    # A norm, because the square root of a variance of 0 has no gradient.
    std = torch.linalg.vector_norm(centred, dim=-2, keepdim=True) / (num_samples - 1) ** 0.5
    normalised = centred / std.detach().clamp_min(torch.finfo(std.dtype).tiny ** 0.5)
    quantiles = _quantiles(num_samples, std.device, std.dtype)
    shape = ((normalised @ directions).sort(-2).values - quantiles).square().mean()
    return shape, (1 - std).square().mean(), mean.square().mean()


@lru_cache(maxsize=4)
def _quantiles(num_samples: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the normal quantiles of i / (N + 1), (N, 1)."""
    ranks = torch.arange(1, num_samples + 1, dtype=torch.float64) / (num_samples + 1)
    return torch.special.ndtri(ranks).unsqueeze(-1).to(device, dtype)
