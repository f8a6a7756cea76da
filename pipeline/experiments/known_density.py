"""JEPA-SCORE where the density is known: mixtures of Gaussians, under analytic maps and under small trained networks.

By the change of variables a one-to-one map f that spreads x ~ p with density q obeys log p(x) = score(x) + log q(f(x)).
The score alone is log p up to a constant where q is constant, as on the sphere. N(0, I), LeJEPA's target, is not; what
matters is how much log q varies beside log p.

Legend: N points, d dimensions, D embedding, V views, B points a step, S slices.

Source: arXiv 2510.05949 for the score; the cases are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import Field
from scipy.stats import gaussian_kde, spearmanr
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.catalogue.validation import Strict
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import derive_seed, generator
from pipeline.density.jepa_score import jepa_score
from pipeline.experiments.mixtures import (
    Mixture,
    ToGaussian,
    ToSphere,
    log_density,
    plane_mixture,
    sample,
    scale_mixture,
)
from pipeline.losses.lejepa import directions_for_step, lejepa_loss
from pipeline.runtime.bars import bar

SCORE = "JEPA-SCORE"
SPHERE, PLANES, SCALES = "plane to sphere", "planes to Gaussian", "scales to Gaussian"
LEARNED_PLANE, LEARNED_SCALES = "plane, trained network", "scales, trained network"


class Settings(Strict):
    """Settings of the known-density cases; with the defaults they take about half a minute on two cores."""

    num_points: int = Field(500, description="N, fresh points on which scores are compared with log p")
    dims: list[int] = Field([2, 4, 16, 64], description="d of the high-dimensional analytic maps, even")
    num_scales: int = Field(8, description="K of the mixture whose modes differ in scale alone")
    num_seeds: int = Field(3, description="of the points, and of a network's initialisation and training")
    learned_dim: int = Field(16, description="d of the high-dimensional network")
    embed_dims: list[int] = Field([2, 16], description="D on the plane; the other network keeps its d")
    hidden_dim: int = Field(128, description="width of a network's two hidden layers")
    view_share: float = Field(0.5, description="noise that makes a view, as a share of the smallest mode's scale")
    num_views: int = Field(2, description="V")
    batch_size: int = Field(256, description="B")
    num_steps: int = Field(600, description="of training")
    lr: float = Field(3e-3, description="of AdamW, after a warm-up over a tenth of the steps, cosine to 0")
    lamb: float = Field(0.05, description="lambda of LeJEPA")
    num_slices: int = Field(64, description="S")
    num_known: int = Field(2000, description="points that k-NN and KDE know; the network sees fresh ones")
    k: int = Field(20, description="the distance to the k-th nearest of them is a baseline")


class Row(NamedTuple):
    """One score of one seed: its Spearman correlation with log p; the rest for analytic maps alone.

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


class Measured(NamedTuple):
    """All rows, and what the scatter plots show: (log p, JEPA-SCORE) of seed 0 by case, d and D."""

    rows: list[Row]
    clouds: dict[tuple[str, int, int], tuple[Tensor, Tensor]]


def measure(settings: Settings) -> Measured:
    """Measure every case and seed."""
    measured = Measured([], {})
    plane, scales = plane_mixture(), {dim: scale_mixture(dim, settings.num_scales) for dim in settings.dims}
    analytic(measured, SPHERE, plane, ToSphere(plane), log_sphere, 1, settings)
    for dim in settings.dims:
        analytic(measured, PLANES, plane, ToGaussian(plane), log_gaussian, dim // 2, settings)
        analytic(measured, SCALES, scales[dim], ToGaussian(scales[dim]), log_gaussian, 1, settings)
    learned(measured, LEARNED_PLANE, plane, settings.embed_dims, settings)
    dim = settings.learned_dim
    learned(measured, LEARNED_SCALES, scale_mixture(dim, settings.num_scales), [dim], settings)
    return measured


def analytic(
    measured: Measured,
    case: str,
    mixture: Mixture,
    encoder: nn.Module,
    log_target: Callable[[Tensor], Tensor],
    copies: int,
    settings: Settings,
) -> None:
    """Add the score under an analytic map of `copies` independent mixtures, and how well the identity holds."""
    encoder.eval()
    for seed in _seeds(case, settings):
        points, log_p = draw(mixture, settings.num_points, copies, seed)
        embeddings = encoder(points)
        score, log_q = jepa_score(encoder, points), log_target(embeddings)
        error, share = (score + log_q - log_p).abs().max().item(), (log_q.std() / log_p.std()).item()
        dims = points.shape[1], embeddings.shape[1]
        measured.rows.append(Row(case, SCORE, *dims, seed, rank_correlation(score, log_p), error, share))
        measured.clouds.setdefault((case, *dims), (log_p, score))


def learned(measured: Measured, case: str, mixture: Mixture, embed_dims: list[int], settings: Settings) -> None:
    """Add the score by networks before and after training, and what needs no network: k-NN distance and KDE."""
    for seed in _seeds(case, settings):
        points, log_p = draw(mixture, settings.num_points, 1, seed)
        dim, found = points.shape[1], baselines(mixture, points, settings, seed)
        for embed_dim in embed_dims:
            found |= networks(mixture, points, embed_dim, settings, seed)
            measured.clouds.setdefault((case, dim, embed_dim), (log_p, found[SCORE, embed_dim]))
        for (score, embed_dim), values in found.items():
            measured.rows.append(Row(case, score, dim, embed_dim, seed, rank_correlation(values, log_p)))


def _seeds(case: str, settings: Settings) -> tqdm:
    return bar(f"known density, {case}", None, unit="seed", delay_s=1.0, iterable=range(settings.num_seeds))


def draw(mixture: Mixture, num_points: int, copies: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw points of `copies` independent mixtures side by side, (N, copies d), and their log-density (N,)."""
    points = sample(mixture, num_points * copies, generator(seed, "known density"))
    return points.reshape(num_points, -1), log_density(mixture, points).reshape(num_points, copies).sum(1)


def rank_correlation(scores: Tensor, log_p: Tensor) -> float:
    """Return Spearman's rho."""
    return float(spearmanr(scores.numpy(), log_p.numpy()).statistic)


def log_sphere(embeddings: Tensor) -> Tensor:
    """Return the uniform log-density on the unit sphere, the same for every embedding (N, 3)."""
    return embeddings.new_full((len(embeddings),), -math.log(4 * math.pi))


def log_gaussian(embeddings: Tensor) -> Tensor:
    """Return log N(0, I) of embeddings (N, D)."""
    return -embeddings.square().sum(1) / 2 - embeddings.shape[1] / 2 * math.log(2 * math.pi)


def baselines(mixture: Mixture, points: Tensor, settings: Settings, seed: int) -> dict[tuple[str, int | None], Tensor]:
    """Return what points known from the same mixture say of the points (N, d) without a network."""
    known = sample(mixture, settings.num_known, generator(seed, "known points"))
    nearest = torch.cdist(points, known).kthvalue(settings.k, dim=1).values
    kde = gaussian_kde(known.T.numpy()).logpdf(points.T.numpy())
    return {("k-NN distance", None): -nearest, ("KDE", None): torch.from_numpy(kde)}


def networks(
    mixture: Mixture, points: Tensor, embed_dim: int, settings: Settings, seed: int
) -> dict[tuple[str, int | None], Tensor]:
    """Return the scores of points (N, d) by a network before and after training, the latter also with log N(f)."""
    encoder = make_encoder(points.shape[1], embed_dim, settings.hidden_dim, seed)
    untrained = jepa_score(encoder, points.float())
    train(encoder, mixture, embed_dim, settings, seed)
    score = jepa_score(encoder, points.float())
    with torch.no_grad():
        log_q = log_gaussian(encoder(points.float()).double())
    names = (f"random-init {SCORE}", SCORE, f"{SCORE} + log N(f)")
    return {(name, embed_dim): values for name, values in zip(names, (untrained, score, score + log_q), strict=True)}


def make_encoder(dim: int, embed_dim: int, hidden_dim: int, seed: int) -> nn.Sequential:
    """Build an MLP (N, d) -> (N, D); smooth, because a ReLU network's Jacobian is constant in patches."""
    torch.manual_seed(derive_seed(seed, "init"))
    hidden = [nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU()]
    return nn.Sequential(*hidden, nn.Linear(hidden_dim, embed_dim)).eval()


def train(encoder: nn.Module, mixture: Mixture, embed_dim: int, settings: Settings, seed: int) -> None:
    """Minimise the LeJEPA loss; the views are fresh points with Gaussian noise."""
    optimizer = torch.optim.AdamW(encoder.parameters())
    noise_std = settings.view_share * mixture.factors.diagonal(dim1=1, dim2=2).min()
    draws, warmup = generator(seed, "training points"), settings.num_steps // 10
    for step in range(settings.num_steps):
        points = sample(mixture, settings.batch_size, draws)
        noise = noise_std * torch.randn(settings.num_views, *points.shape, generator=draws, dtype=points.dtype)
        projections = encoder((points + noise).flatten(0, 1).float()).unflatten(0, noise.shape[:2])
        directions = directions_for_step(seed, step, embed_dim, settings.num_slices)
        loss = lejepa_loss(projections, directions, num_global=settings.num_views, lamb=settings.lamb).loss
        factor = lr_factor(step, num_steps=settings.num_steps, num_warmup_steps=warmup, final_frac=0.0)
        optimizer.param_groups[0]["lr"] = settings.lr * factor
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
