"""What cells cost on this machine: each thing that decides it is measured once, then added up.

Legend: N training images, M test images, C classes, D features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import speed, timing
from pipeline.errors import UserError
from pipeline.features import RAW_PIXELS_PX
from pipeline.planning import SetFacts, Task
from pipeline.schema import Probe
from pipeline.timing import ProbeTime

# Seconds of DVC for every stage, and of MLflow for opening a cell's run, for an epoch's losses, and for creating the
# store. They cannot be measured without writing; measured on two cores: reports/LOG.md, 2026-11-21.
DVC_STAGE_S, TRACKED_RUN_S, TRACKED_EPOCH_S, NEW_STORE_S = 1.2, 1.0, 0.015, 2.0
CHECKPOINT_BYTES_A_S = 2e8  # a modest disk; a checkpoint is waited for at the end of every epoch
CHECKPOINT_BYTES_A_PARAM = 12  # float32 weights and the two moments of AdamW
# Seconds that measuring backbones may take in all, and for one; many backbones get less each.
BUDGET_S, MOST_S = 20.0, 0.6
MOST_TIMED = 16  # with more loads than this the larger ones are scaled from one of their family


class Cost(NamedTuple):
    """Seconds of training, of probing, and of starting and tracking the programs."""

    pretrain_s: float = 0.0
    probe_s: float = 0.0
    overhead_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self)


@dataclass(frozen=True)
class Measured:
    """What this machine does. A load that cannot run has the reason in `failures` instead of a speed.

    speeds: of the loads of cells, and of the stand-ins that were timed for them.
    probes: for each kind of probe, seconds at its smallest and its largest D.
    decode: seconds that a thread takes to decode an image, for (set, load_px).
    crowded: whether other programs kept the cores busy, so that one thread was measured.
    """

    start_s: float
    speeds: dict[speed.Load, speed.Speed]
    failures: dict[speed.Load, str]
    probes: dict[str, list[tuple[int, ProbeTime]]]
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
    known = [task for task in left if task.load in speeds]
    needed: dict[str, set[int]] = {}
    for task in known:
        if task.probe_set and not task.probe_done:
            needed.setdefault(_probe_key(task), set()).update(_dims(task, speeds[task.load]))
    note(f"measuring probes of {len(needed)} kinds")
    timed = {key: _measure_probes(key, sorted({min(dims), max(dims)})) for key, dims in needed.items()}
    decode = {}
    for task in known:
        for name, facts in ((task.cell.dataset, task.train_set), (task.cell.probed_on, task.probe_set)):
            key = name, task.pretrain.load_px
            if facts and key not in decode:
                decode[key] = _decode_seconds(name, facts, key[1])
    return Measured(timing.start_seconds() if left else 0.0, speeds, failures, timed, decode, crowded)


def _measure_speeds(loads: list[speed.Load], note: Callable[[str], None]) -> tuple[dict, dict, bool]:
    chosen: dict[speed.Load, speed.Load] = {}
    timings: dict[speed.Load, speed.Timing] = {}
    failures: dict[speed.Load, str] = {}
    ever_crowded = False
    note(f"counting the operations of {len(loads)} kinds of training")
    for load in loads:
        try:
            chosen[load] = speed.timed_load(load, of_many=len(loads) > MOST_TIMED)
        except UserError as error:
            failures[load] = str(error)
    to_time = list(dict.fromkeys(chosen.values()))
    for number, timed in enumerate(to_time, 1):
        note(f"measuring {number} of {len(to_time)}: {timed.backbone}")
        work = partial(speed.measure, timed, min(MOST_S, BUDGET_S / len(to_time)))
        try:
            timings[timed], crowded = timing.undisturbed(work)
        except UserError as error:
            failures |= {load: str(error) for load, chosen_for in chosen.items() if chosen_for == timed}
        else:
            ever_crowded |= crowded
    by = {timed: timed for timed in timings} | {load: timed for load, timed in chosen.items() if timed in timings}
    speeds = {load: speed.Speed(speed.sketch(load), timings[timed], timed.backbone) for load, timed in by.items()}
    return speeds, failures, ever_crowded


def _probe_key(task: Task) -> str:
    facts, settings = task.probe_set, task.probe.model_dump(mode="json", include={"linear", "knn", "few_shot"})
    counts = {"num_train": facts.num_train, "num_test": facts.num_test, "num_classes": facts.num_classes}
    return json.dumps({**counts, "device": task.pretrain.device, "settings": settings})


def _dims(task: Task, found: speed.Speed) -> list[int]:
    """Return D of the features at the probe site, and of raw pixels if they are probed."""
    raw = task.probe_set.channels * min(_size_px(task), RAW_PIXELS_PX) ** 2
    return [_site_dim(task, found)] + [raw] * ("raw_pixels" in task.probe.baselines)


def _site_dim(task: Task, found: speed.Speed) -> int:
    return found.sketch.embed_dim * (2 if task.probe.site == "cls_last2" else 1)


def _size_px(task: Task) -> int:
    """Side of the images that are probed."""
    return json.loads(task.load.settings)["sizes"][0]


def _measure_probes(key: str, dims: list[int]) -> list[tuple[int, ProbeTime]]:
    return [(dim, timing.undisturbed(partial(timing.probe_seconds, dim=dim, **json.loads(key)))[0]) for dim in dims]


def _decode_seconds(name: str, facts: SetFacts, load_px: int) -> float:
    """Small pictures of sets to come take no time to speak of."""
    if facts.is_packed:
        return timing.decode_seconds(Path("data") / name, load_px)
    return 0.0 if facts.size_px else timing.photo_seconds(load_px)


def training_cost(task: Task, measured: Measured) -> Cost | None:
    """Return the seconds left for the weights of a cell; None where set or backbone cannot be known."""
    if task.pretrain_done:
        return Cost()
    found = measured.speeds.get(task.load)
    if task.owner is None:  # fetched: the download is not counted
        return Cost(overhead_s=measured.start_s + DVC_STAGE_S)
    if found is None or task.train_set is None:
        return None
    settings, num_images = task.pretrain, task.train_set.num_train
    views = settings.views.model_dump()
    passes = {px: float(count) for px, count in speed.view_counts(views).items()}
    if settings.swa.enabled:
        passes[views["global_px"]] += views["num_global"] / 3  # a forward pass is a third of a step
    step_s = found.train_s(passes) * settings.batch_size + found.update_s
    decodings = 1 if _fits_in_memory(task, task.train_set) else settings.epochs
    decoding_s = decodings * _decoding_s(task.cell.dataset, task, measured, num_images)
    checkpoint_s = found.sketch.num_params * CHECKPOINT_BYTES_A_PARAM / CHECKPOINT_BYTES_A_S
    overhead_s = _program_s(measured) + settings.epochs * (TRACKED_EPOCH_S + checkpoint_s)
    return Cost(pretrain_s=decoding_s + task.num_steps * step_s, overhead_s=overhead_s)


def probing_cost(task: Task, measured: Measured) -> Cost | None:
    """Return the seconds left for the probes of a cell: its backbone's, the random one's and those of raw pixels."""
    if task.probe_done:
        return Cost()
    found, facts = measured.speeds.get(task.load), task.probe_set
    if found is None or facts is None:
        return None
    probe, points = task.probe, measured.probes[_probe_key(task)]
    networks, raw = 1 + ("random_init" in probe.baselines), "raw_pixels" in probe.baselines
    num_images, embed_s = facts.num_train + facts.num_test, found.embed_s(_size_px(task))
    at_site = _between(points, _site_dim(task, found))
    tuned = probe.mode == "finetune"
    probes_s = at_site.knn_s + _finetuning_s(probe, facts, found, _size_px(task)) if tuned else sum(at_site)
    networks_s = networks * (num_images * embed_s + probes_s)
    passes = 1 if _fits_in_memory(task, facts) else networks + raw
    decoding_s = passes * _decoding_s(task.cell.probed_on, task, measured, num_images)
    raw_s = sum(_between(points, _dims(task, found)[-1])) if raw else 0.0
    return Cost(probe_s=decoding_s + networks_s + raw_s, overhead_s=_program_s(measured))


def _finetuning_s(probe: Probe, facts: SetFacts, found: speed.Speed, size_px: int) -> float:
    """Seconds of every fine-tuning of one backbone: for each learning rate, on all images, on the few of each draw."""
    tuning, total_s = probe.finetune, 0.0
    held = int(facts.num_train * probe.holdout_frac)
    tried = len(tuning.learning_rates) if len(tuning.learning_rates) > 1 else 0
    runs = [(facts.num_train - held, held)] * tried + [(facts.num_train, facts.num_test)]
    for shots in probe.few_shot.shots:
        runs += [(min(shots * facts.num_classes, facts.num_train), facts.num_test)] * tuning.num_draws
    for num_images, num_scored in runs:
        batch_size = min(tuning.batch_size, num_images)
        steps_an_epoch = num_images // batch_size
        num_steps = max(tuning.epochs, -(-tuning.min_steps // steps_an_epoch)) * steps_an_epoch
        total_s += num_steps * (found.train_s({size_px: 1.0}) * batch_size + found.update_s)
        total_s += num_scored * found.embed_s(size_px)
    return total_s


def _program_s(measured: Measured) -> float:
    return measured.start_s + DVC_STAGE_S + TRACKED_RUN_S


def _decoding_s(name: str, task: Task, measured: Measured, num_images: int) -> float:
    """Decode on all cores."""
    return num_images * measured.decode[name, task.pretrain.load_px] / (os.cpu_count() or 1)


def _fits_in_memory(task: Task, facts: SetFacts) -> bool:
    num_bytes = facts.num_train * float(np.prod(facts.canvas(task.pretrain.load_px)))
    return num_bytes <= task.pretrain.loader.memory_gb * 1e9


def _between(points: list[tuple[int, ProbeTime]], dim: int) -> ProbeTime:
    """Interpolate linearly: a probe's time is a constant and a part that grows with D."""
    dims, times = zip(*points, strict=True)
    return ProbeTime(*(float(np.interp(dim, dims, kind)) for kind in zip(*times, strict=True)))


def around_s(tasks: Iterable[Task], num_pipelines: int, measured: Measured) -> float:
    """Return the seconds of the stages around the cells: configure, the table, downloads of small sets, a new store."""
    to_pack = {task.cell.dataset for task in tasks if task.train_set and not task.train_set.is_packed}
    store_s = 0.0 if Path("mlflow.db").exists() else NEW_STORE_S
    return (2 * num_pipelines + len(to_pack)) * (measured.start_s + DVC_STAGE_S) + store_s
