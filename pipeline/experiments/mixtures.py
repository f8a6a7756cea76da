"""Mixtures of Gaussians whose density is known, and maps that spread them evenly by their distribution functions.

Legend: N points, d dimensions, K modes.

Source: Rosenblatt, "Remarks on a multivariate transformation" (1952).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Centre, scale and correlation of the plane's modes: scales differ fivefold, and correlation makes the two coordinates
# depend on each other, so that the conditional distribution functions have something to condition on.
PLANE = [((0.0, 0.0), 1.0, 0.6), ((2.5, 0.5), 0.4, -0.5), ((-2.0, 1.5), 0.2, 0.0), ((0.5, -2.5), 0.6, 0.8)]


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d dimensions, float64: weights (K,), means (K, d), Cholesky factors (K, d, d)."""

    weights: Tensor
    means: Tensor
    factors: Tensor


def plane_mixture() -> Mixture:
    """Return the mixture in the plane: four modes whose scales differ fivefold, three of them correlated."""
    means = torch.tensor([centre for centre, _, _ in PLANE], dtype=torch.float64)
    shapes = [scale**2 * torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64) for _, scale, c in PLANE]
    return Mixture(means.new_full((len(PLANE),), 1 / len(PLANE)), means, torch.linalg.cholesky(torch.stack(shapes)))


def scale_mixture(dim: int, num_scales: int) -> Mixture:
    """Return a mixture of `num_scales` round Gaussians around 0, their scales from 0.1 to 1."""
    scales = torch.logspace(-1, 0, num_scales, dtype=torch.float64)
    factors = scales[:, None, None] * torch.eye(dim, dtype=torch.float64)
    return Mixture(torch.full_like(scales, 1 / num_scales), scales.new_zeros(num_scales, dim), factors)


def sample(mixture: Mixture, num_points: int, draws: torch.Generator) -> Tensor:
    """Draw points, (N, d) float64."""
    modes = torch.multinomial(mixture.weights, num_points, replacement=True, generator=draws)
    noise = torch.randn(num_points, mixture.means.shape[1], generator=draws, dtype=torch.float64)
    return mixture.means[modes] + torch.einsum("nij,nj->ni", mixture.factors[modes], noise)


def log_density(mixture: Mixture, points: Tensor) -> Tensor:
    """Return log p of points (N, d) as (N,): the textbook form, by which the maps are judged."""
    modes = torch.distributions.MultivariateNormal(mixture.means, scale_tril=mixture.factors, validate_args=False)
    return torch.logsumexp(modes.log_prob(points[:, None]) + mixture.weights.log(), dim=1)


class Rosenblatt(nn.Module):
    """A map made of the conditional distribution functions F(x_j | x_1 ... x_j-1), which are uniform and independent.

    With L the Cholesky factor of a mode's covariance and z = L^-1 (x - mean), its F(x_j | x_<j) is Phi(z_j), and its
    density there is that of z_j over L_jj; a mixture's is the mean over modes, weighted by their posterior given x_<j.
    Points (N, d m) are m independent points of the mixture side by side.
    """

    def __init__(self, mixture: Mixture) -> None:
        """Keep what the conditionals need: log weights, means, inverse factors and the logarithm of their diagonals."""
        super().__init__()
        self.register_buffer("log_weights", mixture.weights.log())
        self.register_buffer("means", mixture.means)
        self.register_buffer("inverses", torch.linalg.inv(mixture.factors))
        self.register_buffer("log_scales", mixture.factors.diagonal(dim1=1, dim2=2).log())

    def tails(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(x_j | x_<j) and 1 - F, each (N m, d) and exact where it is small."""
        offsets = points.reshape(-1, 1, self.means.shape[1]) - self.means
        z = torch.einsum("kij,nkj->nki", self.inverses, offsets)
        terms = -z.square() / 2 - self.log_scales
        before = terms.cumsum(-1) - terms
        posterior = torch.softmax(self.log_weights[:, None] + before, dim=1)
        # Phi(z) = erfc(-z / sqrt 2) / 2; torch.special.ndtr would be 0 below -8.
        lower, upper = (torch.special.erfc(sign * z / math.sqrt(2)) / 2 for sign in (-1, 1))
        return (posterior * lower).sum(1), (posterior * upper).sum(1)


class ToSphere(Rosenblatt):
    """From the plane through the uniform square to the unit sphere, by Lambert's equal-area map: density 1 / (4 pi)."""

    def forward(self, points: Tensor) -> Tensor:
        """Map (N, 2) to (N, 3)."""
        lower, upper = self.tails(points)
        radius, angle = 2 * (lower[:, 0] * upper[:, 0]).sqrt(), 2 * math.pi * lower[:, 1]
        return torch.stack([radius * angle.cos(), radius * angle.sin(), lower[:, 0] - upper[:, 0]], dim=1)


class ToGaussian(Rosenblatt):
    """From any dimension to N(0, I)."""

    def forward(self, points: Tensor) -> Tensor:
        """Map (N, d m) to (N, d m)."""
        lower, upper = self.tails(points)
        sign = torch.where(lower < upper, 1.0, -1.0)
        return (sign * torch.special.ndtri(torch.minimum(lower, upper))).reshape(points.shape)
