"""What the cells of a pipeline cost on this machine: each thing that decides it is measured once, then added up.

Legend: N training images, D embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import speed, timing
from pipeline.errors import UserError
from pipeline.features import RAW_PIXELS_PX
from pipeline.planning import Pipeline, Task

# Seconds of DVC for every stage, and of MLflow for opening a cell's run, for an epoch's losses, and for creating the
# store. They cannot be measured without writing; measured on two cores: reports/LOG.md, 2026-11-21.
DVC_STAGE_S, TRACKED_RUN_S, TRACKED_EPOCH_S, NEW_STORE_S = 1.2, 1.0, 0.015, 2.0
CHECKPOINT_BYTES_A_S = 2e8  # a modest disk; a checkpoint is waited for at the end of every epoch
# Seconds that measuring may take in all, and for one backbone; many backbones get less each.
BUDGET_S, MOST_S = 20.0, 0.6


class Cost(NamedTuple):
    """Seconds left for one cell: training, probing, and starting and tracking the programs."""

    pretrain_s: float
    probe_s: float
    overhead_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self)


@dataclass(frozen=True)
class Measured:
    """What this machine does. A load that cannot run has the reason in `failures` instead of a speed.

    probes: for each kind of probe, seconds at its smallest and its largest D: [(D, s), (D, s)].
    decode: seconds that a thread takes to decode an image, for sets on disk.
    crowded: whether other programs kept the cores busy, so that one thread was measured.
    """

    start_s: float
    speeds: dict[speed.Load, speed.Speed]
    failures: dict[speed.Load, str]
    probes: dict[str, list[tuple[int, float]]]
    decode: dict[tuple[str, int], float]
    crowded: bool


def measure(tasks: Iterable[Task], note: Callable[[str], None]) -> Measured:
    """Measure whatever the cells that are left need, each thing once.

    Args:
        tasks: of all pipelines.
        note: called with a line of progress.
    """
    left = [task for task in tasks if not task.done]
    speeds, failures, crowded = _measure_speeds(list(dict.fromkeys(task.load for task in left)), note)
    decode = {}
    for task in left:
        key = task.cell.dataset, task.pretrain.load_px
        if task.facts and task.facts.is_packed and key not in decode:
            decode[key] = timing.decode_seconds(Path("data") / key[0], key[1])
    known = [task for task in left if task.load in speeds and task.facts]
    probes = dict(_measure_probes(known, speeds))
    return Measured(timing.start_seconds() if left else 0.0, speeds, failures, probes, decode, crowded)


def _measure_speeds(loads: list[speed.Load], note: Callable[[str], None]) -> tuple[dict, dict, bool]:
    speeds: dict[speed.Load, speed.Speed] = {}
    failures: dict[speed.Load, str] = {}
    ever_crowded = False
    for number, load in enumerate(loads, 1):
        note(f"measuring {number} of {len(loads)}: {load.backbone}, images of {load.canvas[1]} px")
        budget_s = min(MOST_S, BUDGET_S / len(loads))
        try:
            speeds[load], crowded = timing.undisturbed(partial(speed.measure, load, budget_s))
        except UserError as error:
            failures[load] = str(error)
        else:
            ever_crowded |= crowded
    return speeds, failures, ever_crowded


def _measure_probes(tasks: list[Task], speeds: dict) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    dims: dict[str, set[int]] = {}
    for task in tasks:
        dims.setdefault(_probe_key(task), set()).update((_raw_dim(task), speeds[task.load].embed_dim))
    for key, found in dims.items():
        numbers, settings = json.loads(key)
        yield (
            key,
            [
                (dim, timing.undisturbed(partial(timing.probe_seconds, dim=dim, settings=settings, **numbers))[0])
                for dim in _ends(found)
            ],
        )


def _ends(values: set[int]) -> list[int]:
    return sorted({min(values), max(values)})


def _probe_key(task: Task) -> str:
    numbers = {name: getattr(task.facts, name) for name in ("num_train", "num_test", "num_classes")}
    return json.dumps([numbers, task.probe.model_dump(mode="json", exclude={"batch_size"})])


def _raw_dim(task: Task) -> int:
    return task.facts.channels * min(task.pretrain.views.global_px, RAW_PIXELS_PX) ** 2


def cost_left(task: Task, measured: Measured) -> Cost | None:
    """Return the seconds left for a cell; None if its set is not downloaded or its backbone cannot be measured."""
    if task.done:
        return Cost(0.0, 0.0, 0.0)
    found = measured.speeds.get(task.load)
    if found is None or task.facts is None:
        return None
    program_s = measured.start_s + DVC_STAGE_S + TRACKED_RUN_S
    probe_s, overhead_s = _probing_s(task, found, measured), program_s
    if task.pretrain_done:
        return Cost(0.0, probe_s, overhead_s)
    epochs = task.pretrain.epochs
    overhead_s += program_s + epochs * (TRACKED_EPOCH_S + found.checkpoint_bytes / CHECKPOINT_BYTES_A_S)
    return Cost(_pretraining_s(task, found, measured), probe_s, overhead_s)


def _pretraining_s(task: Task, found: speed.Speed, measured: Measured) -> float:
    decoding_s = _decoding_s(task, measured, task.facts.num_train)
    if _fits_in_memory(task, task.facts.num_train):
        return decoding_s + task.num_steps * found.step_s
    return decoding_s * task.pretrain.epochs + task.num_steps * found.step_s


def _probing_s(task: Task, found: speed.Speed, measured: Measured) -> float:
    """Embeddings and probes of the learned and the random backbone, and the probes of raw pixels."""
    num_images = task.facts.num_train + task.facts.num_test
    passes = 1 if _fits_in_memory(task, task.facts.num_train) else 3
    points = measured.probes[_probe_key(task)]
    probes_s = 2 * _between(points, found.embed_dim) + _between(points, _raw_dim(task))
    return passes * _decoding_s(task, measured, num_images) + 2 * num_images * found.embed_image_s + probes_s


def _decoding_s(task: Task, measured: Measured, num_images: int) -> float:
    """Decode on all cores; sets that are not packed yet are the small ones, where it takes no time to speak of."""
    return num_images * measured.decode.get((task.cell.dataset, task.pretrain.load_px), 0.0) / (os.cpu_count() or 1)


def _fits_in_memory(task: Task, num_images: int) -> bool:
    canvas = task.facts.canvas(task.pretrain.load_px)
    return num_images * float(np.prod(canvas)) <= task.pretrain.loader.memory_gb * 1e9


def _between(points: list[tuple[int, float]], dim: int) -> float:
    """Interpolate linearly: a probe's time is a constant and a part that grows with D."""
    return float(np.interp(dim, *zip(*points, strict=True)))


def around_s(pipeline: Pipeline, measured: Measured) -> float:
    """Return the seconds of the stages around the cells: configure, compare, downloads of small sets, a new store."""
    to_pack = {task.cell.dataset for task in pipeline.tasks if task.facts and not task.facts.is_packed}
    store_s = 0.0 if Path("mlflow.db").exists() else NEW_STORE_S
    return (2 + len(to_pack)) * (measured.start_s + DVC_STAGE_S) + store_s
