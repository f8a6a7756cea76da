"""JEPA-SCORE where the density is known: mixtures of Gaussians under analytic maps, and under a small trained network.

A map f that spreads x ~ p with density q changes densities by its Jacobian: log p(x) = score(x) + log q(f(x)). The score
alone is log p as far as q is constant over the embedding. It is on the sphere and the cube; on N(0, I), LeJEPA's target,
it is not, and what matters is how much log q varies beside log p.

Legend: N points, d dimensions, K modes, D embedding, V views, B points a step, S slices.

Source: the change of variables behind JEPA-SCORE (arXiv 2510.05949, section 5 of the paper facts); Rosenblatt,
"Remarks on a multivariate transformation" (1952). The cases are this project's own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import gaussian_kde, spearmanr
from torch import Tensor, nn

from pipeline.density import jepa_score
from pipeline.losses import directions_for_step, lejepa_loss
from pipeline.seeds import derive_seed, generator

# Centre, scale and stretch of the plane's modes: scales differ tenfold, and stretch (along the diagonal) makes the two
# coordinates depend on each other, so that the conditional distribution functions have something to condition on.
PLANE = [((0.0, 0.0), 1.0, 0.6), ((4.0, 1.0), 0.3, -0.5), ((-3.0, 2.5), 0.1, 0.0), ((1.0, -4.0), 0.6, 0.8)]


@dataclass(frozen=True)
class Settings:
    """Settings of the known-density cases; the defaults take about a quarter of a minute on two cores.

    Args:
        num_points: N, fresh points on which scores are compared with log p: a rank correlation is then known to 0.03.
        dims: d of the high-dimensional cases, even.
        num_scales: K of the mixture whose modes differ in scale alone, spaced evenly in log scale over a factor of 10.
        num_seeds: of points, and of the network's training.
        embed_dims: D of the trained network: that of the plane, and more.
        hidden_dim: width of its two hidden layers.
        view_std: standard deviation of the perturbation that makes a view, below the smallest mode's.
        num_views: V.
        batch_size: B.
        num_steps: of training.
        lr: of AdamW, cosine to 0.
        lamb: lambda of LeJEPA.
        num_slices: S.
        num_train: points that k-NN and KDE know; the network sees fresh ones.
        k: the k-th nearest of them is the distance.
    """

    num_points: int = 1000
    dims: tuple[int, ...] = (2, 8, 32, 128)
    num_scales: int = 16
    num_seeds: int = 3
    embed_dims: tuple[int, ...] = (2, 16)
    hidden_dim: int = 128
    view_std: float = 0.05
    num_views: int = 2
    batch_size: int = 512
    num_steps: int = 500
    lr: float = 3e-3
    lamb: float = 0.05
    num_slices: int = 256
    num_train: int = 2000
    k: int = 20


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d dimensions, float64: weights (K,), means (K, d), Cholesky factors (K, d, d)."""

    weights: Tensor
    means: Tensor
    factors: Tensor


class Row(NamedTuple):
    """One score of one seed: its Spearman correlation with log p; the rest where log q is known.

    identity_error: largest |score + log q(f) - log p|. q_share: standard deviation of log q(f) over that of log p.
    """

    case: str
    score: str
    dim: int
    embed_dim: int | None
    seed: int
    spearman: float
    identity_error: float | None = None
    q_share: float | None = None


def plane_mixture() -> Mixture:
    """Return the mixture in the plane: four modes whose scales differ tenfold, three of them stretched."""
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
        return (posterior * torch.special.ndtr(z)).sum(1), (posterior * torch.special.ndtr(-z)).sum(1)


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


def log_sphere(embeddings: Tensor) -> Tensor:
    """Return the uniform log-density on the unit sphere, the same for every embedding (N, 3)."""
    return embeddings.new_full((len(embeddings),), -math.log(4 * math.pi))


def log_gaussian(embeddings: Tensor) -> Tensor:
    """Return log N(0, I) of embeddings (N, D)."""
    return -embeddings.square().sum(1) / 2 - embeddings.shape[1] / 2 * math.log(2 * math.pi)


def analytic_rows(settings: Settings) -> list[Row]:
    """Score the analytic maps: the plane to sphere and Gaussian, and higher dimensions to the Gaussian."""
    plane = plane_mixture()
    cases = [("plane to sphere", plane, ToSphere(plane), log_sphere, 1)]
    cases += [("plane to Gaussian", plane, ToGaussian(plane), log_gaussian, 1)]
    for dim in settings.dims:
        scales = scale_mixture(dim, settings.num_scales)
        cases.append(("product of planes", plane, ToGaussian(plane), log_gaussian, dim // 2))
        cases.append(("modes of different scale", scales, ToGaussian(scales), log_gaussian, 1))
    rows = []
    for case, mixture, encoder, log_target, copies in cases:
        for seed in range(settings.num_seeds):
            points, log_p = draw(mixture, settings.num_points, copies, seed)
            encoder.eval()
            score, log_q = jepa_score(encoder, points), log_target(encoder(points))
            error, share = (score + log_q - log_p).abs().max().item(), (log_q.std() / log_p.std()).item()
            dims = points.shape[1], encoder(points[:1]).shape[1]
            rows.append(Row(case, "JEPA-SCORE", *dims, seed, rank_correlation(score, log_p), error, share))
    return rows


def draw(mixture: Mixture, num_points: int, copies: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw points of `copies` independent mixtures side by side, (N, copies d), and their log-density (N,)."""
    points = sample(mixture, num_points * copies, generator(seed, "known density"))
    return points.reshape(num_points, -1), log_density(mixture, points).reshape(num_points, copies).sum(1)


def rank_correlation(scores: Tensor, log_p: Tensor) -> float:
    """Return Spearman's rho."""
    return float(spearmanr(scores.numpy(), log_p.numpy()).statistic)


def make_encoder(embed_dim: int, hidden_dim: int, seed: int) -> nn.Sequential:
    """Build an MLP (N, 2) -> (N, D); smooth, because a ReLU network's Jacobian is constant in patches."""
    torch.manual_seed(derive_seed(seed, "init"))
    widths = [2, hidden_dim, hidden_dim]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, embed_dim)).double()


def train(encoder: nn.Module, mixture: Mixture, settings: Settings, seed: int) -> None:
    """Minimise the LeJEPA loss; views are fresh points with Gaussian noise."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_steps)
    draws, (*_, last) = generator(seed, "training points"), encoder
    for step in range(settings.num_steps):
        points = sample(mixture, settings.batch_size, draws)
        noise = torch.randn(settings.num_views, *points.shape, generator=draws, dtype=points.dtype)
        projections = encoder((points + settings.view_std * noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
        directions = directions_for_step(seed, step, last.out_features, settings.num_slices, dtype=points.dtype)
        loss = lejepa_loss(projections, directions, num_global=settings.num_views, lamb=settings.lamb)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        schedule.step()


def learned_rows(settings: Settings) -> list[Row]:
    """Score trained and untrained networks on the plane, and what needs no network: k-NN distance and KDE."""
    mixture, rows = plane_mixture(), []
    for seed in range(settings.num_seeds):
        points, log_p = draw(mixture, settings.num_points, 1, seed)
        known = sample(mixture, settings.num_train, generator(seed, "known points"))
        nearest = torch.cdist(points, known).kthvalue(settings.k, dim=1).values
        found = [("k-NN distance", None, -nearest), ("KDE", None, torch.from_numpy(gaussian_kde(known.T)(points.T)))]
        for embed_dim in settings.embed_dims:
            encoder = make_encoder(embed_dim, settings.hidden_dim, seed).eval()
            found.append(("random-init JEPA-SCORE", embed_dim, jepa_score(encoder, points)))
            train(encoder, mixture, settings, seed)
            found.append(("JEPA-SCORE", embed_dim, jepa_score(encoder, points)))
            if embed_dim == 2:
                with torch.no_grad():
                    log_q = log_gaussian(encoder(points))
                found.append(("JEPA-SCORE + log N(f)", embed_dim, found[-1][2] + log_q))
        rows += [Row("learned", name, 2, dim, seed, rank_correlation(value, log_p)) for name, dim, value in found]
    return rows
