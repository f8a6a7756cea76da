"""Cost of every stage that is left: counts of steps and images, times what this machine was measured to take.

Legend: N training images, D features, F operations of a forward pass of one view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from pipeline.core.distributed.devices import choose_device
from pipeline.density.scores import affordable
from pipeline.models.features import RAW_PIXELS_PX
from pipeline.planning.inventory import Comparison, Pipeline, Task
from pipeline.planning.set_facts import SetFacts
from pipeline.planning.step_time import Measured, Speed, an_image
from pipeline.runtime.bars import num_cpus
from pipeline.schema.parameters import Probe
from pipeline.trials.bench import NUM_TIMED, NUM_WARM
from pipeline.trials.tuning import BASELINES

MAPPED_POINT_S = 0.003  # of t-SNE for a point, on two cores: reports/LOG.md, 2026-11-22
KNOWN_DENSITY_S = 30.0  # on two cores: pipeline/experiments/known_density.py


class Part(NamedTuple):
    """One run of a stage with the seconds that are left of it; None: unknown."""

    stage: str
    seconds: float | None


def parts(pipelines: Sequence[Pipeline], measured: Measured) -> Iterator[Part]:
    """Yield every run of a stage that is left, each pretraining and each packing once; nothing where all is done."""
    pipelines = [pipeline for pipeline in pipelines if not all(task.done for task in pipeline.timed)]
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    for facts in {name: facts for pipeline in pipelines for name, facts in pipeline.facts.items()}.values():
        if not facts or not facts.is_packed:
            images_s = facts and (facts.num_train + facts.num_test) * facts.image_s / num_cpus()
            yield Part("pack", images_s and images_s + measured.program_s)
    yield from (Part("pretrain", training_seconds(one, measured)) for one in sources(tasks) if not one.pretrain_done)
    yield from (Part("probe", probing_seconds(task, measured)) for task in tasks if not task.probe_done)
    for pipeline in pipelines:
        for one in pipeline.comparisons:
            if not one.task.done:
                stage = "baselines" if one.objective == BASELINES else "measure"
                yield Part(stage, comparing_seconds(one, measured))
        for name, scored in pipeline.scored.items():
            yield from (Part("score", scoring_seconds(pipeline, name, one, measured)) for one in scored)
        for name in pipeline.params.grid.datasets if pipeline.grid == "default" else ():
            yield Part("pictures", pictures_seconds(pipeline, name, measured))
        for stage in pipeline.around:
            yield Part(stage, measured.program_s + KNOWN_DENSITY_S * (stage == "known_density"))


def sources(tasks: Iterable[Task]) -> list[Task]:
    """Return one cell for each pretraining and each frozen model, whichever grid makes it."""
    found: dict[Any, Task] = {}
    for task in tasks:
        found.setdefault(task.owner or task.cell.backbone, task)
    return list(found.values())


def training_seconds(task: Task, measured: Measured) -> float | None:
    """Return the seconds left for the weights of a cell; None where set or backbone cannot be known."""
    speed, settings = measured.speeds.get(task.shape), task.pretrain
    if task.pretrain_done:
        return 0.0
    if task.owner is None:  # fetched: the download is not counted
        return measured.program_s
    if speed is None or task.train_set is None:
        return None
    on_gpus = choose_device(settings.device, quiet=True).type == "cuda"
    batch_size = settings.batch_size // (settings.layout.processes if on_gpus else 1)
    steps_s = task.num_steps * speed.step_s(an_image(speed.operations, settings.views), batch_size)
    passes = 1 if _fits_in_memory(task, task.train_set) else settings.epochs
    return passes * _decoding_s(task.train_set, task.train_set.num_train) + steps_s + measured.program_s


def probing_seconds(task: Task, measured: Measured) -> float | None:
    """Return the seconds left for the probes of a cell: its backbone's, the random one's and those of raw pixels."""
    speed, facts, probe = measured.speeds.get(task.shape), task.probe_set, task.probe
    if task.probe_done:
        return 0.0
    if speed is None or facts is None:
        return None
    networks, raw = 1 + ("random_init" in probe.baselines), "raw_pixels" in probe.baselines
    num_images, size_px, fit_s = (
        facts.num_train + facts.num_test,
        task.pretrain.views.global_px,
        measured.fits[task.fit_key],
    )
    dim = speed.embed_dim * (2 if probe.site == "cls_last2" else 1)
    network_s = num_images * speed.image_s(size_px)
    network_s += dim * fit_s if probe.mode == "frozen" else _finetuning_s(probe, facts, speed, size_px)
    raw_s = raw * facts.channels * min(size_px, RAW_PIXELS_PX) ** 2 * fit_s
    passes = 1 if _fits_in_memory(task, facts) else networks + raw
    return passes * _decoding_s(facts, num_images) + networks * network_s + raw_s + measured.program_s


def comparing_seconds(one: Comparison, measured: Measured) -> float | None:
    """Return the seconds of a comparison: its tuning, the trainings that are compared, and a probe of each.

    The budget of time is as long as the reference's trainings, which are taken for as long as its own.
    """
    task, section = one.task, one.section
    speed, facts = measured.speeds.get(task.shape), task.train_set
    if speed is None or facts is None:
        return None
    size_px, fit_s = task.pretrain.views.global_px, measured.fits[task.fit_key]
    probe_s = (facts.num_train + facts.num_test) * speed.image_s(size_px) + speed.embed_dim * fit_s
    if one.objective == BASELINES:
        raw_s = facts.channels * min(size_px, RAW_PIXELS_PX) ** 2 * fit_s
        return len(section.seeds) * probe_s + raw_s + measured.program_s
    batch_size = task.pretrain.batch_size
    step_s = speed.step_s(an_image(speed.operations, task.pretrain.views), batch_size)
    fitted = int(facts.num_train * (1 - section.holdout_frac)) // batch_size
    steps = one.num_tuned * section.tuning_epochs * fitted
    steps += one.num_compared * task.pretrain.epochs * (facts.num_train // batch_size)
    steps += 2 * (NUM_TIMED + NUM_WARM) * (one.objective != section.reference)
    return steps * step_s + (one.num_tuned + one.num_compared) * probe_s + measured.program_s


def _finetuning_s(probe: Probe, facts: SetFacts, speed: Speed, size_px: int) -> float:
    """Seconds of every fine-tuning of one backbone: for each learning rate, on all images, on the few of each draw."""
    tuning, total_s = probe.finetune, 0.0
    runs = [facts.num_train] * (1 + len(tuning.learning_rates))
    runs += [shots * facts.num_classes for shots in probe.few_shot.shots for _ in range(tuning.num_draws)]
    for num_images in runs:
        batch_size = min(tuning.batch_size, num_images)
        num_steps = max(tuning.min_steps, tuning.epochs * num_images // batch_size)
        total_s += num_steps * speed.step_s(speed.operations[size_px], batch_size)
        total_s += facts.num_test * speed.image_s(size_px)
    return total_s


def scoring_seconds(pipeline: Pipeline, trained: str, scored: str, measured: Measured) -> float | None:
    """Return the seconds of JEPA-SCORE and its baselines with the costliest of the runs that may be picked.

    An exact score takes D backward passes, each of 2 F operations, for the trained and for the untrained network, and
    the product of the Jacobian with itself. `density.max_tflop` bounds it (pipeline/density/scores.py).
    """
    costs = [
        _scoring_seconds(pipeline, task, scored, measured) for task in pipeline.tasks if task.cell.dataset == trained
    ]
    return None if None in costs else max(costs, default=None)


def _scoring_seconds(pipeline: Pipeline, task: Task, scored: str, measured: Measured) -> float | None:
    speed, facts, settings = measured.speeds.get(task.shape), pipeline.facts[scored], pipeline.params.density
    if speed is None or facts is None or task.train_set is None:
        return None
    size_px = task.pretrain.views.global_px
    forward, pixels = speed.operations[size_px] / speed.kept_frac, 3 * size_px**2
    passes = min(speed.embed_dim, pixels)
    allowed = affordable(passes, forward, min(settings.num_images, facts.num_test), settings)
    sketch = 2 * (settings.num_sketches + 2) * forward
    exact = 4 * passes * forward + 4 * passes**2 * pixels if allowed.exact else 2 * sketch
    num_embedded = task.train_set.num_train + allowed.num_images
    embedding_s = num_embedded * speed.image_s(size_px) + _decoding_s(task.train_set, num_embedded)
    return allowed.num_images * (exact + sketch) * speed.train_s / 6 + embedding_s + measured.program_s


def pictures_seconds(pipeline: Pipeline, dataset: str, measured: Measured) -> float | None:
    """Return the seconds of the pictures of a data set: all its images through two networks of each backbone, maps."""
    tasks = {task.backbone: task for task in pipeline.tasks if task.cell.dataset == dataset}.values()
    facts = pipeline.facts[dataset]
    if facts is None or any(task.shape not in measured.speeds for task in tasks):
        return None
    num_images, num_mapped = facts.num_train + facts.num_test, min(pipeline.params.pictures.num_mapped, facts.num_test)
    embed_s = sum(measured.speeds[task.shape].image_s(task.pretrain.views.global_px) for task in tasks)
    maps_s = len(tasks) * num_mapped * MAPPED_POINT_S
    return 2 * (num_images * embed_s + maps_s) + _decoding_s(facts, num_images) + measured.program_s


def _decoding_s(facts: SetFacts, num_images: int) -> float:
    """Decode on all cores."""
    return num_images * facts.image_s / num_cpus()


def _fits_in_memory(task: Task, facts: SetFacts) -> bool:
    load_px, memory_gb = task.pretrain.load_px, task.pretrain.loader.memory_gb
    return facts.is_whole(load_px) and facts.num_train * prod(facts.canvas(load_px)) <= memory_gb * 1e9
