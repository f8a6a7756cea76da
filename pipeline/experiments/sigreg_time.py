"""Time of SIGReg against samples, slices and knots, beside the published times.

Timed is what a training step does: draw fresh directions, project, take the statistic, and its gradient by the
projections ("forward + backward"); or the value alone ("forward", without gradient). The paper does not say which of
the two it timed. On a CPU it is the processor time of one thread, which other programs do not lengthen much; with
several threads that wait for each other, a second busy program makes every clock useless (pipeline.planning.step_time).

Legend: N samples, K projection dimension, S slices, T knots.

Source: LeJEPA, table 6 (one V100; milliseconds, mean and standard deviation).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

import numpy as np
import pandas
import torch
from pydantic import Field

from pipeline.catalogue.validation import Strict
from pipeline.core.csv_files import read_rows
from pipeline.core.seeds import generator
from pipeline.losses.lejepa import random_directions, sigreg
from pipeline.runtime.errors import UserError

PUBLISHED_COLUMNS = ("num_samples", "num_slices", "num_points", "mean_ms", "std_ms")
AXES = ["num_samples", "num_slices", "num_knots"]
KINDS = ["forward_ms", "step_ms"]


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


def read_published(path: Path) -> pandas.DataFrame:
    """Read the paper's table: AXES (its num_points are knots), mean_ms, std_ms."""
    table = pandas.DataFrame(read_rows(path, PUBLISHED_COLUMNS)).rename(columns={"num_points": "num_knots"})
    return table.astype(dict.fromkeys(AXES, int) | {"mean_ms": float, "std_ms": float})


def measure(sizes: Iterable[Size], settings: Settings, device: torch.device) -> pandas.DataFrame:
    """Time every size in turn, round after round, so that a busy moment of the machine does not fall on one size.

    On a CPU torch is given one thread for as long as this takes. One round before the timed ones is not counted. Sizes
    beyond `settings.max_terms` are left out.

    Returns:
        AXES, repetition (from 1) and KINDS: milliseconds without and with the gradient.

    Raises:
        UserError: every size is beyond it.
    """
    draws, sizes = generator(settings.seed, "sigreg time"), list(sizes)
    chosen = [size for size in sizes if size.terms <= settings.max_terms]
    if not chosen:
        smallest = min(size.terms for size in sizes)
        raise UserError(f"sigreg_time.max_terms must be >= {smallest}, the smallest size, got {settings.max_terms}")
    everything = torch.randn(max(chosen).num_samples, settings.proj_dim, generator=draws).to(device)
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for repetition in range(settings.num_repetitions + 1):
            for size in chosen:
                projections = everything[: size.num_samples]
                forward = _milliseconds(projections, size, draws)
                step = _milliseconds(projections.clone().requires_grad_(), size, draws)
                rows.append((*size, repetition, forward, step))
    finally:
        torch.set_num_threads(threads)
    table = pandas.DataFrame(rows, columns=[*AXES, "repetition", *KINDS])
    return table[table.repetition > 0]


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


def along(table: pandas.DataFrame, axis: str) -> pandas.DataFrame:
    """Return the rows in which the other two of AXES are at their smallest, rising along `axis`."""
    others = [name for name in AXES if name != axis]
    return table[(table[others] == table[others].min()).all(axis=1)].sort_values(axis)


def log_slope(times_ms: pandas.Series) -> float:
    """Return the least-squares slope of log time against log count, the index: 1 is linear growth, below 1 slower."""
    return linear_regression(np.log(times_ms.index.to_numpy(float)), np.log(times_ms.to_numpy())).slope


def slope_of_times(axis: str, times: pandas.DataFrame, kind: str) -> tuple[float, float]:
    """Return the slope of the medians along an axis, and the standard deviation of the slopes of single rounds.

    Args:
        axis: one of AXES.
        times: of `measure`.
        kind: one of KINDS.
    """
    rounds = along(times, axis).pivot(index="repetition", columns=axis, values=kind)
    return log_slope(rounds.median()), float(rounds.apply(log_slope, axis=1).std())


def published_slope(axis: str, published: pandas.DataFrame) -> float:
    """Return the slope of the published means along an axis."""
    return log_slope(along(published, axis).set_index(axis).mean_ms)
