"""Figures 6 and 16: descent on raw samples whose first two dims form an "X"; which statistic makes them Gaussian?

The other dims are N(0, 1) from the start. What the first two look like afterwards is measured with what no statistic
here trains: the share of the X that is left, and the energy distance to N(0, I_2). A control moves the samples by as
much as the statistics do, but in random ways, since wherever points are kicked about for long enough, an X fades.

Shapes: N samples, D dims, S slices.
Source: LeJEPA, arXiv 2511.08544, section 4.2; its code, figures/nonparametric_example.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count, product
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.catalogue.types import Distinct, Positive
from pipeline.catalogue.validation import Strict
from pipeline.core.seeds import derive_seed, generator
from pipeline.experiments.descent import descend
from pipeline.losses.lejepa import directions_for_step
from pipeline.losses.univariate import MULTIVARIATE, STATISTICS, statistic_by_name
from pipeline.runtime.errors import did_you_mean

CONTROL = "random_walk"
MEASURES = ("x_left", "energy_distance", "spread", "start_correlation")
START = "start"


class Settings(Strict):
    """Section `repair` of paper/figure6/params.yaml."""

    statistics: Distinct[str] = Field(description="names of losses.univariate, or random_walk for the control")
    dims: Distinct[Annotated[int, Field(ge=2)]] = Field(description="D")
    num_slices: Distinct[Annotated[int, Field(ge=1)]] = Field(description="S a step, where a statistic has slices")
    num_samples: int = Field(ge=4, description="N")
    shift: float = Field(ge=0, description="added to the first two dims")
    num_steps: int = Field(ge=1, description="of descent")
    lr: Positive = Field(description="Adam's")
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(description="each draws its own samples and directions")
    num_reference: int = Field(ge=40, description="Gaussian samples of size N: the measures without an X")

    @field_validator("statistics")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        known = [*STATISTICS, CONTROL]
        for name in names:
            if name not in known:
                raise ValueError(f"has the unknown entry {name!r}{did_you_mean(name, known)}")
        return names


class Run(NamedTuple):
    """One descent; `num_slices` is None for a statistic without slices."""

    statistic: str
    dim: int
    num_slices: int | None
    seed: int


def runs_of(settings: Settings) -> list[Run]:
    """List the clouds before descent and the descents, the longest first, so that all cores end together."""
    runs = [Run(START, dim, None, seed) for dim, seed in product(sorted(settings.dims), settings.seeds)]
    for dim, name in product(sorted(settings.dims, reverse=True), settings.statistics):
        slices = [None] if name in MULTIVARIATE else sorted(settings.num_slices, reverse=True)
        runs += [Run(name, dim, num, seed) for num, seed in product(slices, settings.seeds)]
    return runs


def x_cloud(num_samples: int, dim: int, *, shift: float, seed: int) -> Tensor:
    """Draw samples whose first two dims form an X: x2 = x1 or -x1 with even odds, both N(shift, 1) and uncorrelated.

    Args:
        num_samples: N.
        dim: D >= 2; the dims after the second are independent N(0, 1).
        shift: mean of the first two dims. With 0 all moments up to order 3 are those of N(0, I).
        seed: of the draw.

    Returns:
        (N, D) float32.
    """
    source = generator(seed, "x cloud", dim)
    samples = torch.randn(num_samples, dim, generator=source)
    signs = torch.randint(0, 2, (num_samples,), generator=source) * 2 - 1
    samples[:, 1] = samples[:, 0] * signs
    samples[:, :2] += shift
    return samples


def x_left(points: Tensor) -> float:
    """Share of an X that is left: -sum r^2 cos(4 angle) / sum r^2 around the mean.

    1 where all points lie on the two diagonals, 0 in expectation where no angle is preferred, -1 for a "+". Points near
    the centre, whose angle means little, count little.

    Args:
        points: (N, 2).
    """
    x, y = (points.double() - points.double().mean(0)).unbind(-1)
    square = x.square() + y.square()
    # r^2 cos(4 angle) = r^2 (2 cos(2 angle)^2 - 1), and r^2 cos(2 angle) = x^2 - y^2.
    turned = 2 * (x.square() - y.square()).square() / square.clamp_min(torch.finfo(torch.float64).tiny) - square
    return float(-turned.sum() / square.sum())


def energy_distance(points: Tensor) -> float:
    """Energy distance of points to N(0, I_2): 2 E|p - G| - E|p - p'| - E|G - G'|, with G, G' normal.

    About sqrt(pi) / N for N normal points; 0 only for the normal distribution itself.

    Args:
        points: (N, 2).

    Source: Szekely & Rizzo, J. Multivariate Analysis 93 (2005); E|p - G| is the mean of a Rice distribution.
    """
    p = points.double()
    q = p.square().sum(-1) / 4
    to_normal = math.sqrt(math.pi / 2) * ((1 + 2 * q) * torch.special.i0e(q) + 2 * q * torch.special.i1e(q))
    return float(2 * to_normal.mean() - torch.cdist(p, p).mean() - math.sqrt(math.pi))


def start_correlation(start: Tensor, end: Tensor) -> float:
    """Correlation of where points were and where they are, mean over dims: 1 if they kept their places, 0 if mixed.

    Args:
        start: (N, 2).
        end: (N, 2), the same points later.
    """
    a, b = (points.double() - points.double().mean(0) for points in (start, end))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0).mean())


def random_walk(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the control: a "statistic" whose gradient along each direction has a random sign for each sample."""
    steps = count()

    def statistic(samples: Tensor, directions: Tensor) -> Tensor:
        shape = (samples.shape[0], directions.shape[1])
        signs = torch.randint(0, 2, shape, generator=generator(seed, CONTROL, next(steps))) * 2 - 1
        return (samples @ directions * signs).mean()

    return statistic


def directions_of(run: Run) -> Iterator[Tensor]:
    """Fresh directions for each step, the same for every statistic of a seed."""
    seed = derive_seed(run.seed, "repair directions")
    return (directions_for_step(seed, step, run.dim, run.num_slices or 1) for step in count())


def measure(run: Run, settings: Settings) -> dict[str, Any]:
    """Descend once, and measure the first two dims afterwards; `run.statistic` START means no descent.

    Returns:
        The fields of `run`, `finite`, the MEASURES and `points`, N pairs; where the descent overflowed, `finite` is
        False and the rest None.
    """
    start = x_cloud(settings.num_samples, run.dim, shift=settings.shift, seed=run.seed)
    end: Tensor | None = start
    if run.statistic != START:
        statistic = random_walk(run.seed) if run.statistic == CONTROL else statistic_by_name(run.statistic)
        end = descend(start, statistic, directions_of(run), num_steps=settings.num_steps, lr=settings.lr)
    if end is None:
        return {**run._asdict(), "finite": False, **dict.fromkeys(MEASURES), "points": None}
    before, after = start[:, :2], end[:, :2]
    return {
        **run._asdict(),
        "finite": True,
        "x_left": x_left(after),
        "energy_distance": energy_distance(after),
        "spread": spread(after),
        "start_correlation": start_correlation(before, after),
        "points": after.tolist(),
    }


def spread(points: Tensor) -> float:
    """Root mean square of points (N, 2) around their mean, over samples and dims: 1 for N(0, I_2)."""
    return float(points.double().var(0, correction=0).mean().sqrt())


def gaussian_reference(settings: Settings) -> dict[str, dict[str, float]]:
    """Measure fresh Gaussian samples of size N: for each measure its mean and the bound that 97.5 % of them keep.

    Both bounds together refuse at most 5 % of true Gaussian samples.
    """
    source = generator(0, "gaussian reference")
    draws = torch.randn(settings.num_reference, settings.num_samples, 2, generator=source)
    reference = {}
    for measured in (x_left, energy_distance):
        values = torch.tensor([measured(draw) for draw in draws], dtype=torch.float64)
        reference[measured.__name__] = {"mean": float(values.mean()), "bound": float(values.quantile(0.975))}
    return reference
