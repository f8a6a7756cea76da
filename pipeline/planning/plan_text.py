"""Text of `python -m stages.plan`: cells of each pipeline, then the cost of all."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pipeline.models.backbones import published
from pipeline.planning.costs import comparing_seconds, parts, probing_seconds, sources, training_seconds
from pipeline.planning.gpu_hours import gpu_hours_text
from pipeline.planning.gpu_memory import gpu_memory_text
from pipeline.planning.inventory import Pipeline, Task
from pipeline.planning.step_time import Measured, an_image
from pipeline.runtime.stage_count import duration
from pipeline.sources.inputs import user_path

UNKNOWN = "unknown until downloaded"
WIDTH = 120
COLUMNS = ("data set", "backbone", "cells", "done", "trained here", "done", "images seen", "a step", "time left")
CHECKPOINT_BYTES_A_PARAM = 12  # float32 weights and the two moments of AdamW


def pipeline_text(pipeline: Pipeline, measured: Measured) -> Iterator[str]:
    """Yield the cells of one pipeline, a line for each pair of data set and backbone."""
    tasks = pipeline.tasks
    if pipeline.comparisons:
        yield from comparisons_text(pipeline, measured)
        return
    if not tasks:
        yield f"{pipeline.path}: no cells; runs in full in minutes on a CPU"
        return
    here = [task for task in tasks if task.owner == task.cell]
    elsewhere = Counter(one.owner.grid for one in sources(tasks) if one.owner and one.owner.grid != pipeline.grid)
    counts = [f"{len(tasks)} cells, {sum(task.done for task in tasks)} done"]
    counts += [f"{len(here)} pretrainings, {sum(task.pretrain_done for task in here)} done"]
    counts += [f"{number} more from {grid}" for grid, number in elsewhere.items()]
    yield f"{pipeline.path}: {'; '.join(counts)}"
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.cell.dataset, task.cell.backbone), []).append(task)
    yield from aligned([COLUMNS, *(row(group, measured) for group in groups.values())], num_left=2)
    yield from wrapped(f"time         {time_text([pipeline], measured)}")
    if hours := gpu_hours_text(sources(here), measured):
        yield from wrapped(f"GPU-hours    {hours}")
        yield from wrapped(f"GPU memory   {gpu_memory_text(sources(here), measured)}")


def comparisons_text(pipeline: Pipeline, measured: Measured) -> Iterator[str]:
    """Yield a line for each objective and data set that are compared, and for the baselines of each set."""
    found, section = pipeline.comparisons, pipeline.comparisons[0].section
    table = [("data set", "objective", "tuning", "compared", "done", "a step", "time left")]
    for one in found:
        task = one.task
        counts = [str(count) if count else "-" for count in (one.num_tuned, one.num_compared)]
        step = step_text(task, measured) if one.num_tuned else "-"
        left = "0 s" if task.done else summed([comparing_seconds(one, measured)])
        table.append([task.cell.dataset, one.objective, *counts, "yes" if task.done else "no", step, left])
    yield (
        f"{pipeline.path}: {len(found)} stages, {sum(one.task.done for one in found)} done; trainings of "
        f"{section.tuning_epochs} epochs tune an objective, of {section.pretrain.epochs} compare it"
    )
    yield from aligned(table, num_left=2)
    yield from wrapped(f"time         {time_text([pipeline], measured)}")


def row(group: list[Task], measured: Measured) -> list[str]:
    """Return the columns of some cells of one data set and backbone."""
    one, here = group[0], [task for task in group if task.owner == task.cell]
    trained = [str(len(here)), str(sum(task.pretrain_done for task in here))]
    if one.owner is None:
        trained = ["frozen", "fetched" if one.pretrain_done else "to fetch"]
    step = step_text(here[0], measured) if here else "-"
    left = [probing_seconds(task, measured) for task in group] + [training_seconds(task, measured) for task in here]
    done = str(sum(task.probe_done for task in group))
    return [one.cell.dataset, one.cell.backbone, str(len(group)), done, *trained, images_seen(here), step, summed(left)]


def step_text(task: Task, measured: Measured) -> str:
    """Say how long a training step takes, with ~ before what was not measured whole."""
    speed = measured.speeds.get(task.shape)
    if speed is None:
        return "-"
    operations = an_image(speed.operations, task.pretrain.views)
    return f"{'~' * (speed.origin != 'measured')}{duration(speed.step_s(operations, task.pretrain.batch_size))}"


def images_seen(trained: Sequence[Task]) -> str:
    """Say how many training images some pretrainings see, each as often as it is seen."""
    known = [task.num_steps * task.pretrain.batch_size for task in trained if task.num_steps is not None]
    if trained and not known:
        return UNKNOWN
    return f"{'at least ' * (len(known) < len(trained))}{sum(known):,}" if trained else "-"


def summed(seconds: Sequence[float | None]) -> str:
    """Add up the seconds that are known and say how many are not."""
    known = [one for one in seconds if one is not None]
    unknown = len(seconds) - len(known)
    return " + ".join([duration(sum(known))] * bool(known) + [f"{unknown} unknown"] * bool(unknown))


def time_text(pipelines: Sequence[Pipeline], measured: Measured) -> str:
    """Say what finished trainings took and what everything takes that is left."""
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    took = [task.trained_s for task in sources(tasks) if task.trained_s is not None]
    told = f"{summed(took)} for {len(took)} finished pretrainings, as their provenance says; " if took else ""
    left = [seconds for _, seconds in parts(pipelines, measured)]
    if not left:
        return f"{told}none left for cells; `dvc status` tells of analyses, the page, and what changed since"
    return f"{told}{summed(left)} left on this machine, one stage after the other"


def totals(pipelines: Sequence[Pipeline], measured: Measured) -> Iterator[str]:
    """Say what all pipelines cost together, and what has to be fetched for them."""
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    todo = [task for task in sources(tasks) if not task.pretrain_done]
    trained, by_stage = [task for task in todo if task.owner], {}
    for stage, seconds in parts(pipelines, measured):
        by_stage.setdefault(stage, []).append(seconds)
    stages = [[stage, str(len(seconds)), summed(seconds)] for stage, seconds in by_stage.items()]
    downloads, by_hand = needs(pipelines)
    yield "All together, each pretraining once"
    yield from aligned([("stage", "runs", "time left"), *stages], num_left=1) if stages else ()
    yield from wrapped(f"cells        {len(tasks)}, {sum(task.done for task in tasks)} done")
    yield from wrapped(f"pretraining  {len(trained)} to do; {images_seen(trained)} images seen")
    yield from wrapped(f"time         {time_text(pipelines, measured)}")
    yield from wrapped(f"disk         {disk(pipelines, todo, measured)}")
    yield from wrapped(f"downloads    {'; '.join(downloads + models(todo)) or 'none'}")
    yield "by hand" if by_hand else "by hand      nothing"
    yield from (f"  {line}" for line in by_hand)


def disk(pipelines: Sequence[Pipeline], todo: Sequence[Task], measured: Measured) -> str:
    """Say what is to come on disk: weights, the checkpoints of one cell, packed data."""
    params = [measured.speeds[task.shape].num_params for task in todo if task.shape in measured.speeds]
    facts = {name: one for pipeline in pipelines for name, one in pipeline.facts.items()}
    unknown = [name for name, one in facts.items() if one is None]
    packed = sum(one.num_bytes for one in facts.values() if one and not one.is_packed)
    return (
        f"to come, DVC's copies counted: weights {'at least ' * (len(params) < len(todo))}{size(8 * sum(params))}, "
        f"checkpoints {size(3 * CHECKPOINT_BYTES_A_PARAM * max(params, default=0))} while a cell trains, packed data "
        f"about {size(2 * packed)}{f', {UNKNOWN} for ' * bool(unknown)}{', '.join(unknown)}"
    )


def models(todo: Iterable[Task]) -> list[str]:
    """Name the frozen models that are fetched, and from where."""
    missing = {task.cell.backbone: task.model for task in todo if task.model and not task.model.random_init}
    places = {
        name: model.local_path or (model.backbone if model.is_folder else published(model.backbone).address)
        for name, model in missing.items()
    }
    return [f"{name} ({place})" for name, place in places.items()]


def needs(pipelines: Sequence[Pipeline]) -> tuple[list[str], list[str]]:
    """Return what is downloaded by itself, and lines about what a person must fetch, for sets that are not packed."""
    downloads, by_hand = [], []
    facts = {name: (one, pipeline.entries[name]) for pipeline in pipelines for name, one in pipeline.facts.items()}
    for name, (one, entry) in facts.items():
        told, local = getattr(entry, "by_hand", None), getattr(entry, "path", None)
        if one and one.is_packed:
            continue
        if told:
            there = {file: (user_path(told.path) / file).exists() for file in told.files}
            files = ", ".join(f"{file} ({'there' if is_there else 'missing'})" for file, is_there in there.items())
            by_hand += [f"{name}: {told.what}", f"  from  {told.origin}", f"  to    {told.path}", f"  files {files}"]
        elif local:
            by_hand += [f"{name}: files of your own, at {local}"]
        elif entry.source == "torchvision":
            downloads.append(f"{name} (torchvision.datasets.{entry.dataset})")
        elif entry.source == "huggingface":
            downloads.append(f"{name} (huggingface.co/datasets/{entry.repo})")
        elif entry.source not in ("bundled", "sklearn"):
            downloads.append(f"{name} ({entry.url})")
    return downloads, by_hand


def conditions(measured: Measured) -> Iterator[str]:
    """Say which numbers were scaled and what all of them assume."""
    if not measured.speeds:
        return
    scaled: dict[str, dict[str, None]] = {}
    for speed in measured.speeds.values():
        if speed.origin != "measured":
            scaled.setdefault(speed.origin, {})[speed.backbone] = None
    yield "An estimate for a quiet machine, from training steps that were timed just now: hours may be off by half."
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        yield f"Other programs ran meanwhile (load {load:.1f} on {cores} cores): on a quiet machine it is faster."
    kept = [(speed.backbone, f"{speed.kept_frac:.0%}") for speed in measured.speeds.values() if speed.kept_frac < 1]
    for backbone, part in dict.fromkeys(kept):
        yield f"Dropped tokens leave {backbone} {part} of the operations of a training step."
    for origin, backbones in scaled.items():
        yield from wrapped(f"~ scaled from {origin}: {', '.join(backbones)}", 2)
    yield from wrapped(
        "Whether a batch fits into the memory of this machine is not checked. pretrain.layout divides one: "
        "checkpoint_activations or micro_batch_size for a third more operations, processes over several cards.",
        0,
    )


def problems(pipelines: Sequence[Pipeline], measured: Measured) -> list[str]:
    """Name everything because of which a cell cannot run; each once."""
    tasks = [task for pipeline in pipelines for task in pipeline.timed]
    found = [problem for pipeline in pipelines for problem in pipeline.problems]
    found += [measured.failures[task.shape] for task in tasks if task.shape in measured.failures]
    for task in tasks:
        if not task.pretrain_done and task.train_set and task.train_set.num_train < task.pretrain.batch_size:
            found.append(
                f"pretrain.batch_size must be <= the {task.train_set.num_train} training images of "
                f"{task.cell.dataset}, got {task.pretrain.batch_size}; lower it"
            )
    return list(dict.fromkeys(found))


def aligned(table: Sequence[Sequence[str]], *, num_left: int) -> Iterator[str]:
    """Align columns with spaces: the first `num_left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = [text.ljust(width) for text, width in zip(line[:num_left], widths, strict=False)]
        cells += [text.rjust(width) for text, width in zip(line[num_left:], widths[num_left:], strict=True)]
        yield f"  {'  '.join(cells)}".rstrip()


def wrapped(text: str, indent: int = 13) -> list[str]:
    """Break a line that is wider than WIDTH; what follows is indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def size(num_bytes: float) -> str:
    """Return bytes in the unit that reads best."""
    for unit, length in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if num_bytes < 1000 * length:
            return f"{num_bytes / length:.1f} {unit}"
    return f"{num_bytes / 1e12:.1f} TB"
