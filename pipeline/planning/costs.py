"""Cost of stages on this machine: each part is measured once, then added up.

Legend: N training images, M test images, C classes, D features, F operations of a forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.features import RAW_PIXELS_PX
from pipeline.planning import speed, timing
from pipeline.planning.planning import Pipeline, SetFacts, Task
from pipeline.planning.timing import ProbeTime
from pipeline.runtime.bars import bar, num_cpus
from pipeline.runtime.errors import UserError
from pipeline.settings.schema import Probe

# Seconds of DVC and of MLflow for every stage, and of t-SNE for a point. Measured on two cores: reports/LOG.md,
# 2026-11-21 and 2026-11-22.
STAGE_S, MAPPED_POINT_S = 2.2, 0.003
# Seconds that measuring backbones may take in all, and for one; many backbones get less each.
BUDGET_S, MOST_S = 20.0, 0.6
MOST_TIMED = 16  # with more loads than this the larger ones are scaled from one of their family
AROUND = {True: ("configure", "compare", "diagnose", "density", "page"), False: ("configure", "diagnose", "table")}


class Part(NamedTuple):
    """One run of a stage with the seconds that are left of it; None: unknown."""

    stage: str
    seconds: float | None


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

    @property
    def program_s(self) -> float:
        """Seconds that a stage takes whatever it does."""
        return self.start_s + STAGE_S


def measure(pipelines: Iterable[Pipeline]) -> Measured:
    """Measure whatever the stages that are left need, each thing once."""
    pipelines = list(pipelines)
    left = [task for pipeline in pipelines for task in pipeline.tasks if not task.done]
    speeds, failures, crowded = _measure_speeds(list(dict.fromkeys(task.load for task in left)))
    known = [task for task in left if task.load in speeds]
    needed: dict[str, set[int]] = {}
    for task in known:
        if task.probe_set and not task.probe_done:
            needed.setdefault(_probe_key(task), set()).update(_dims(task, speeds[task.load]))
    timed = {
        key: _measure_probes(key, sorted({min(dims), max(dims)}))
        for key, dims in bar("timing probes", None, unit="kind", iterable=needed.items())
    }
    decode = {}
    for pipeline in pipelines:
        sizes = {task.pretrain.load_px for task in pipeline.tasks if not task.done}
        for name, facts in pipeline.facts.items():
            for load_px in sizes if facts else ():
                decode[name, load_px] = timing.decode_seconds(facts.files, facts.canvas(load_px))
    return Measured(timing.start_seconds() if left else 0.0, speeds, failures, timed, decode, crowded)


def _measure_speeds(loads: list[speed.Load]) -> tuple[dict, dict, bool]:
    chosen: dict[speed.Load, speed.Load] = {}
    timings: dict[speed.Load, speed.Timing] = {}
    failures: dict[speed.Load, str] = {}
    ever_crowded = False
    for load in bar("counting operations", None, unit="network", iterable=loads, disable=not loads):
        try:
            chosen[load] = speed.timed_load(load, of_many=len(loads) > MOST_TIMED)
        except UserError as error:
            failures[load] = str(error)
    to_time = list(dict.fromkeys(chosen.values()))
    for timed in bar("timing networks", None, unit="network", iterable=to_time, disable=not to_time):
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


def parts(pipelines: Sequence[Pipeline], measured: Measured) -> Iterator[Part]:
    """Yield every run of a stage that is left, each pretraining and each packing once; nothing where all is done."""
    pipelines = [pipeline for pipeline in pipelines if not all(task.done for task in pipeline.tasks)]
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    packed = {name: facts for pipeline in pipelines for name, facts in pipeline.facts.items()}
    yield from (Part("pack", packing_seconds(one, measured)) for one in packed.values() if not one or one.pack_s)
    yield from (Part("pretrain", training_seconds(one, measured)) for one in sources(tasks) if not one.pretrain_done)
    yield from (Part("probe", probing_seconds(task, measured)) for task in tasks if not task.probe_done)
    for pipeline in pipelines:
        yield from _analyses(pipeline, measured)


def _analyses(pipeline: Pipeline, measured: Measured) -> Iterator[Part]:
    is_root = pipeline.grid == "default"
    for name, scored in pipeline.scored.items():
        yield from (Part("score", scoring_seconds(pipeline, name, one, measured)) for one in scored)
    if is_root:
        for name in pipeline.params.grid.datasets:
            yield Part("pictures", pictures_seconds(pipeline, name, measured))
    yield from (Part(stage, measured.program_s) for stage in AROUND[is_root])


def sources(tasks: Iterable[Task]) -> list[Task]:
    """Return one cell for each pretraining and each frozen model, whichever grid makes it."""
    found: dict = {}
    for task in tasks:
        found.setdefault(task.owner or task.cell.backbone, task)
    return list(found.values())


def packing_seconds(facts: SetFacts | None, measured: Measured) -> float | None:
    """Return the seconds of packing a set on all cores; a download is not counted."""
    return facts and facts.pack_s / num_cpus() + measured.program_s


def training_seconds(task: Task, measured: Measured) -> float | None:
    """Return the seconds left for the weights of a cell; None where set or backbone cannot be known."""
    if task.pretrain_done:
        return 0.0
    found = measured.speeds.get(task.load)
    if task.owner is None:  # fetched: the download is not counted
        return measured.program_s
    if found is None or task.train_set is None:
        return None
    settings = task.pretrain
    views = settings.views.model_dump()
    passes = {px: float(count) for px, count in speed.view_counts(views).items()}
    if settings.swa.enabled:
        passes[views["global_px"]] += views["num_global"] / 3  # a forward pass is a third of a step
    step_s = found.train_s(passes) * settings.batch_size + found.update_s
    decodings = 1 if _fits_in_memory(task, task.train_set) else settings.epochs
    decoding_s = decodings * _decoding_s(task.cell.dataset, task, measured, task.train_set.num_train)
    return decoding_s + task.num_steps * step_s + measured.program_s


def probing_seconds(task: Task, measured: Measured) -> float | None:
    """Return the seconds left for the probes of a cell: its backbone's, the random one's and those of raw pixels."""
    if task.probe_done:
        return 0.0
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
    return decoding_s + networks_s + raw_s + measured.program_s


def scoring_seconds(pipeline: Pipeline, trained: str, scored: str, measured: Measured) -> float | None:
    """Return the seconds of JEPA-SCORE and its rivals with the costliest of the runs that may be picked.

    An exact score takes D backward passes, each of 2 F operations, for the trained and for the untrained network, and
    the product of the Jacobian with itself. `density.max_tflop` bounds it.
    """
    tasks, facts = pipeline.of(trained), pipeline.facts[scored]
    if not facts or not tasks or any(not task.train_set or task.load not in measured.speeds for task in tasks):
        return None
    task = max(tasks, key=lambda task: _forward(task, measured))
    found, forward, settings = measured.speeds[task.load], _forward(task, measured), pipeline.params.density
    num_images, pixels = min(settings.num_images, facts.num_test), 3 * _size_px(task) ** 2
    rows = min(found.sketch.embed_dim, pixels)
    exact = 4 * rows * forward + 4 * rows**2 * pixels
    sketch = 2 * (settings.num_sketches + 2) * forward
    if num_images * (exact + sketch) > settings.max_tflop * 1e12:
        exact, num_images = 2 * sketch, min(num_images, max(10, int(settings.max_tflop * 1e12 / (2 * sketch))))
    operations = num_images * (exact + sketch)
    num_embedded = task.train_set.num_train + num_images
    decoding_s = _decoding_s(trained, task, measured, num_embedded)
    work_s = operations * found.timing.train_s / 6 + num_embedded * found.embed_s(_size_px(task))
    return decoding_s + work_s + measured.program_s


def _forward(task: Task, measured: Measured) -> int:
    return measured.speeds[task.load].sketch.operations[_size_px(task)]


def pictures_seconds(pipeline: Pipeline, dataset: str, measured: Measured) -> float | None:
    """Return the seconds of the pictures of a data set: all its images through two networks of each backbone, maps."""
    tasks = {task.cell.backbone: task for task in pipeline.of(dataset)}.values()
    if any(not task.train_set or task.load not in measured.speeds for task in tasks):
        return None
    seconds, settings = measured.program_s, pipeline.params.pictures
    for number, task in enumerate(tasks):
        num_images = task.train_set.num_train + task.train_set.num_test
        seconds += 2 * num_images * measured.speeds[task.load].embed_s(_size_px(task))
        seconds += (number == 0) * _decoding_s(dataset, task, measured, num_images)
        seconds += 2 * min(settings.num_mapped, task.train_set.num_test) * MAPPED_POINT_S
    return seconds


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


def _decoding_s(name: str, task: Task, measured: Measured, num_images: int) -> float:
    """Decode on all cores."""
    return num_images * measured.decode[name, task.pretrain.load_px] / num_cpus()


def _fits_in_memory(task: Task, facts: SetFacts) -> bool:
    num_bytes = facts.num_train * float(np.prod(facts.canvas(task.pretrain.load_px)))
    return num_bytes <= task.pretrain.loader.memory_gb * 1e9


def _between(points: list[tuple[int, ProbeTime]], dim: int) -> ProbeTime:
    """Interpolate linearly: a probe's time is a constant and a part that grows with D."""
    dims, times = zip(*points, strict=True)
    return ProbeTime(*(float(np.interp(dim, dims, kind)) for kind in zip(*times, strict=True)))
