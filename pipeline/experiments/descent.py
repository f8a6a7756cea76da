"""Gradient descent on raw samples under a statistic of their projections, and many such runs side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from pipeline.catalogue.validation import Strict
from pipeline.runtime.provenance import describe


def descend(
    start: Tensor,
    statistic: Callable[[Tensor, Tensor], Tensor],
    directions: Iterable[Tensor],
    *,
    num_steps: int,
    lr: float,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor | None:
    """Move samples down the gradient of a statistic: Adam, no network between loss and samples.

    Args:
        start: (N, K) float32 samples; left as they are.
        statistic: called as statistic(samples, directions) -> scalar, e.g. from `losses.univariate.statistic_by_name`.
        directions: (K, S) for each step, at least `num_steps` of them.
        num_steps: >= 1.
        lr: learning rate of Adam, constant, in units of the samples.
        watch: called as watch(steps done, samples) after each step.

    Returns:
        (N, K), or None where the statistic or its gradient overflowed.
    """
    samples = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([samples], lr=lr, fused=True)  # the default takes three times as long on the CPU
    for step, drawn in zip(range(1, num_steps + 1), directions, strict=False):
        optimizer.zero_grad(set_to_none=True)
        loss = statistic(samples, drawn)
        loss.backward()
        if not torch.isfinite(samples.grad.sum() + loss.detach()):
            return None
        optimizer.step()
        if watch:
            watch(step, samples.detach())
    return samples.detach()


def measure_all(measure: Callable[..., dict[str, Any]], runs: Sequence[Any], settings: Strict) -> dict[str, Any]:
    """Measure every run: a process per core, one thread each, as on small tensors it is faster.

    Args:
        measure: a module's function, so that other processes can find it; called as measure(run, settings=settings).
        runs: independent of each other.
        settings: of all runs.

    Returns:
        What is stored: settings, rows in the order of the runs, and their origin (date, seconds, commit, machine).
    """
    began, rows = time.perf_counter(), []
    workers = min(len(runs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for row in pool.map(partial(measure, settings=settings), runs):
            rows.append(row)
            print(f"{len(rows)} of {len(runs)} done", flush=True)
    origin = {"date": date.today().isoformat(), "seconds": time.perf_counter() - began, **describe("cpu")}
    return {"settings": settings.model_dump(), "origin": origin, "rows": rows}
