"""Time of SIGReg against samples, slices and knots, beside the published times.

Timed is what a training step does: draw fresh directions, project, take the statistic, and its gradient by the
projections ("forward + backward"); or the value alone ("forward", without gradient). The paper does not say which of
the two it timed. On a CPU it is the processor time of one thread, which other programs do not lengthen much; with
several threads that wait for each other, a second busy program makes every clock useless (pipeline.planning.step_time).

Legend: N samples, K projection dimension, S slices, T knots.

Source: LeJEPA, table 6 (one V100; milliseconds, mean and standard deviation).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import linear_regression, median, stdev
from typing import NamedTuple

import torch
from pydantic import Field

from pipeline.catalogue.validation import Strict
from pipeline.core.csv_files import read_rows
from pipeline.core.seeds import generator
from pipeline.losses.lejepa import random_directions, sigreg
from pipeline.runtime.errors import UserError

PUBLISHED_COLUMNS = ("num_samples", "num_slices", "num_points", "mean_ms", "std_ms")
AXES = ("num_samples", "num_slices", "num_knots")


class Settings(Strict):
    """Section `sigreg_time` of paper/table6/params.yaml."""

    proj_dim: int = Field(ge=1, description="K")
    num_repetitions: int = Field(ge=2, description="timed rounds over all sizes")
    max_terms: int = Field(ge=1, description="sizes with more samples x slices x knots are not run")
    seed: int = Field(ge=0, description="of projections and directions")


class Size(NamedTuple):
    """N, S and T of one row."""

    num_samples: int
    num_slices: int
    num_knots: int

    @property
    def terms(self) -> int:
        """N S T, what a direct implementation computes and holds."""
        return self.num_samples * self.num_slices * self.num_knots


class Published(NamedTuple):
    """A row of the paper's table."""

    size: Size
    mean_ms: float
    std_ms: float


class Times(NamedTuple):
    """Milliseconds of every timed repetition of one size, in order; repetition i of all sizes is one round."""

    size: Size
    forward_ms: list[float]
    step_ms: list[float]


def read_published(path: Path) -> list[Published]:
    """Read the paper's table; num_points are knots."""
    rows = read_rows(path, PUBLISHED_COLUMNS)
    counts = [[int(row[name]) for name in PUBLISHED_COLUMNS[:3]] for row in rows]
    return [
        Published(Size(*count), float(row["mean_ms"]), float(row["std_ms"]))
        for count, row in zip(counts, rows, strict=True)
    ]


def measure(sizes: list[Size], settings: Settings, device: torch.device) -> list[Times]:
    """Time every size in turn, round after round, so that a busy moment of the machine does not fall on one size.

    On a CPU torch is given one thread for as long as this takes. One round before the timed ones is not counted. Sizes
    beyond `settings.max_terms` are left out.

    Raises:
        UserError: every size is beyond it.
    """
    draws = generator(settings.seed, "sigreg time")
    all_times = [Times(size, [], []) for size in sizes if size.terms <= settings.max_terms]
    if not all_times:
        smallest = min(size.terms for size in sizes)
        raise UserError(f"sigreg_time.max_terms must be >= {smallest}, the smallest size, got {settings.max_terms}")
    largest = max(size.num_samples for size, *_ in all_times)
    everything = torch.randn(largest, settings.proj_dim, generator=draws).to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for repetition in range(settings.num_repetitions + 1):
            for size, forward_ms, step_ms in all_times:
                projections = everything[: size.num_samples]
                forward = _milliseconds(projections, size, draws)
                step = _milliseconds(projections.clone().requires_grad_(), size, draws)
                if repetition:
                    forward_ms.append(forward)
                    step_ms.append(step)
    finally:
        torch.set_num_threads(threads)
    return all_times


def _milliseconds(projections: torch.Tensor, size: Size, draws: torch.Generator) -> float:
    """Time SIGReg of (N, K) projections; with its gradient where they require one."""
    device = projections.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    started = clock()
    directions = random_directions(projections.shape[1], size.num_slices, generator=draws, device=device)
    loss = sigreg(projections, directions, num_knots=size.num_knots)
    if projections.requires_grad:
        loss.backward()
    _wait(device)
    return 1e3 * (clock() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def along(sizes: list[Size], axis: str) -> list[Size]:
    """Return the sizes in which only `axis` differs from the smallest one, rising."""
    smallest = Size(*(min(values) for values in zip(*sizes, strict=True)))
    others = [name for name in AXES if name != axis]
    return sorted(s for s in sizes if all(getattr(s, name) == getattr(smallest, name) for name in others))


def log_slope(counts: list[int], times_ms: list[float]) -> float:
    """Return the least-squares slope of log time against log count: 1 is linear growth, below 1 slower."""
    return linear_regression([math.log(count) for count in counts], [math.log(time_ms) for time_ms in times_ms]).slope


def slope_of_times(axis: str, rows: list[Times], column: str) -> tuple[float, float]:
    """Return the slope of the medians along an axis, and the standard deviation of the slopes of single rounds.

    Args:
        axis: one of AXES.
        rows: of `measure`.
        column: forward_ms or step_ms.
    """
    by_size = {row.size: getattr(row, column) for row in rows}
    chosen = along(list(by_size), axis)
    counts = [getattr(size, axis) for size in chosen]
    rounds = zip(*(by_size[size] for size in chosen), strict=True)
    of_rounds = [log_slope(counts, list(times)) for times in rounds]
    return log_slope(counts, [median(by_size[size]) for size in chosen]), stdev(of_rounds)


def published_slope(axis: str, rows: list[Published]) -> float:
    """Return the slope of the published means along an axis."""
    by_size = {row.size: row.mean_ms for row in rows}
    chosen = along(list(by_size), axis)
    return log_slope([getattr(size, axis) for size in chosen], [by_size[size] for size in chosen])
