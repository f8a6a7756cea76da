"""Figure 7: SIGReg minimised along S directions that stay, or that are drawn again at every step.

Samples descend on SIGReg along their scheme's directions; what counts is SIGReg along many directions that no scheme
was trained on.

Shapes: N samples, K dims, S slices.
Source: LeJEPA, arXiv 2511.08544, section 4 (figure 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product, repeat
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.quasirandom import SobolEngine

from pipeline.catalogue.types import Distinct, Positive
from pipeline.catalogue.validation import Strict
from pipeline.core.seeds import derive_seed, generator
from pipeline.experiments.descent import descend
from pipeline.losses.lejepa import directions_for_step, random_directions, sigreg
from pipeline.runtime.errors import UserError

KEPT = ("fixed", "sobol_fixed")
FRESH = ("resampled", "sobol_resampled")
START, NORMAL = "start", "normal"
Scheme = Literal["fixed", "sobol_fixed", "resampled", "sobol_resampled"]
Count = Annotated[int, Field(ge=1)]


class Settings(Strict):
    """Section `resampling` of paper/figure7/params.yaml."""

    schemes: Distinct[Scheme] = Field(description="of KEPT (directions stay) and FRESH (new ones at every step)")
    kept_slices: Distinct[Count] = Field(description="S of the schemes that keep their directions")
    fresh_slices: Distinct[Count] = Field(description="S a step of the schemes with fresh directions")
    num_samples: int = Field(ge=2, description="N")
    dim: int = Field(ge=2, le=SobolEngine.MAXDIM, description="K; torch's Sobol sequence has no more dims")
    spectrum_power: float = Field(ge=0, description="the variance of dim k before descent is proportional to k^-power")
    num_steps: int = Field(ge=1, description="of descent")
    watched_steps: Distinct[Count] = Field(description="after which held-out SIGReg is taken too")
    lr: Positive = Field(description="Adam's")
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(description="each draws its own samples and directions")
    num_heldout: int = Field(ge=1, description="directions that the result is measured along")


class Run(NamedTuple):
    """One descent; `num_slices` is None for START and NORMAL."""

    scheme: str
    num_slices: int | None
    seed: int


def runs_of(settings: Settings) -> list[Run]:
    """List the samples without descent and the descents, the longest first, so that all cores end together."""
    slices = {name: settings.kept_slices if name in KEPT else settings.fresh_slices for name in settings.schemes}
    runs = [Run(name, num, seed) for name in slices for num, seed in product(slices[name], settings.seeds)]
    without = [Run(name, None, seed) for name, seed in product((START, NORMAL), settings.seeds)]
    return without + sorted(runs, key=lambda run: -run.num_slices)


def start_samples(settings: Settings, seed: int) -> Tensor:
    """Draw Gaussian samples that are far from isotropic: variances k^-power, of mean 1, over dims in random order.

    Returns:
        (N, K) float32.
    """
    source = generator(seed, "resampling start")
    variances = torch.arange(1, settings.dim + 1, dtype=torch.float64) ** -settings.spectrum_power
    # In order, the largest variances would meet the first coordinates of the Sobol sequence, which are its best.
    variances = (variances / variances.mean())[torch.randperm(settings.dim, generator=source)]
    return torch.randn(settings.num_samples, settings.dim, generator=source) * variances.sqrt().float()


def direction_stream(run: Run, dim: int) -> Iterator[Tensor]:
    """Yield (K, S) directions step by step, without end, as the run's scheme draws them.

    Raises:
        ValueError: an unknown scheme.
    """
    seed = derive_seed(run.seed, f"{run.num_slices} directions")
    if run.scheme.startswith("sobol"):
        # Its seed is an int32 in some builds.
        engine = SobolEngine(dim, scramble=True, seed=seed % 2**31)
        fresh = (sobol_directions(engine, run.num_slices) for _ in count())
    else:
        fresh = (directions_for_step(seed, step, dim, run.num_slices) for step in count())
    if run.scheme in KEPT:
        return repeat(next(fresh))
    if run.scheme in FRESH:
        return fresh
    raise ValueError(f"unknown scheme {run.scheme!r}; known: {', '.join([*KEPT, *FRESH])}")


def sobol_directions(engine: SobolEngine, num_slices: int) -> Tensor:
    """Draw the next points of a Sobol sequence in the unit cube, and map them to the unit sphere.

    Each coordinate goes through the normal quantile function, the vector is then normalised: even points of the cube
    give directions that cover the sphere evenly.

    Returns:
        (K, S) float32, unit columns.
    """
    cube = engine.draw(num_slices, dtype=torch.float64)
    tiny = 2.0**-32  # a scrambled point may lie on the edge, where the quantile is infinite
    normal = torch.special.ndtri(cube.clamp(tiny, 1 - tiny)).T
    return (normal / torch.linalg.vector_norm(normal, dim=0)).float()


def measure(run: Run, settings: Settings) -> dict[str, Any]:
    """Descend once; schemes START and NORMAL are measured as they are.

    Returns:
        The fields of `run`, trained_sigreg along the last trained (of kept ones) or the next directions, None without
        descent, heldout_sigreg, and `history`: [steps done, heldout_sigreg] where it was watched.

    Raises:
        UserError: SIGReg overflowed.
    """
    trained, history = None, []
    if run.scheme == NORMAL:
        source = generator(run.seed, "resampling normal")
        end = torch.randn(settings.num_samples, settings.dim, generator=source)
    elif run.scheme == START:
        end = start_samples(settings, run.seed)
    else:
        end, trained, history = _descend(run, settings)
    held = heldout_sigreg(end, settings, run.seed)
    return {**run._asdict(), "trained_sigreg": trained, "heldout_sigreg": held, "history": history}


def _descend(run: Run, settings: Settings) -> tuple[Tensor, float, list[tuple[int, float]]]:
    stream, history = direction_stream(run, settings.dim), []

    def watch(step: int, samples: Tensor) -> None:
        if step in settings.watched_steps:
            history.append((step, heldout_sigreg(samples, settings, run.seed)))

    start, num_steps = start_samples(settings, run.seed), settings.num_steps
    end = descend(start, sigreg, stream, num_steps=num_steps, lr=settings.lr, watch=watch)
    if end is None:
        raise UserError(f"SIGReg overflowed for {run}; lower resampling.lr, now {settings.lr}")
    return end, float(sigreg(end, next(stream))), history


def heldout_sigreg(samples: Tensor, settings: Settings, seed: int) -> float:
    """SIGReg along directions that no scheme draws, the same for every scheme of a seed."""
    directions = random_directions(settings.dim, settings.num_heldout, generator=generator(seed, "held-out"))
    return float(sigreg(samples, directions))
