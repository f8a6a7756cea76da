"""Weak-SIGReg: the covariance of randomly sketched projections, pulled to the identity.

Shapes: V views, N images of all processes, K projection, M sketch. Of each view Z (N, K), mean over views:

    weak = |cov(Z R) - I|_F,   R (K, M) of independent normal numbers over sqrt(K), fresh at every step; none if K <= M

Source: Akbar, "Weak-SIGReg", arXiv 2603.05924 (M 64), which adds it to a supervised loss; here it takes SIGReg's place.
It sees no mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.pinned import to_device
from pipeline.core.seeds import generator
from pipeline.losses.projected import Projected, Regularised, check_positive


@dataclass(frozen=True)
class WeakSIGReg(Regularised):
    """Settings: columns M of the sketch."""

    sketch_dim: int = 64

    def __post_init__(self) -> None:
        """Check the sketch."""
        check_positive(sketch_dim=self.sketch_dim)

    def regularisers(self, seen: Projected) -> dict[str, Tensor]:
        """Return the distance of the sketched covariance from the identity."""
        z = seen.projections
        if z.shape[-1] > self.sketch_dim:
            draws = generator(seen.seed, "sketch", seen.step)
            sketch = torch.randn(z.shape[-1], self.sketch_dim, generator=draws) / z.shape[-1] ** 0.5
            z = z @ to_device(sketch, z.device).to(z.dtype)
        return {"covariance_loss": covariance_distance(z)}


def covariance_distance(samples: Tensor) -> Tensor:
    """Return the mean over views of |cov - I|_F of samples (V, N, M), N >= 2, covariance over N - 1."""
    centred = samples - samples.mean(-2, keepdim=True)
    covariance = centred.transpose(-1, -2) @ centred / (samples.shape[-2] - 1)
    identity = torch.eye(samples.shape[-1], device=samples.device, dtype=samples.dtype)
    return torch.linalg.matrix_norm(covariance - identity).mean()
