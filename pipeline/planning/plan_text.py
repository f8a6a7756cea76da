"""Text of `python -m stages.plan`: cells of each pipeline, then the cost of all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from pipeline.catalogue.datasets import Dataset
from pipeline.models.backbones import published
from pipeline.planning.costs import Measured, parts, probing_seconds, sources, training_seconds
from pipeline.planning.planning import Pipeline, Task
from pipeline.sources.inputs import user_path

UNKNOWN = "unknown until downloaded"
WIDTH = 120
COLUMNS = ("data set", "backbone", "cells", "done", "trained here", "done", "images seen", "time left")
STAGE_COLUMNS = ("stage", "runs", "time left")
CHECKPOINT_BYTES_A_PARAM = 12  # float32 weights and the two moments of AdamW


def pipeline_text(pipeline: Pipeline, measured: Measured) -> str:
    """Return the cells of one pipeline, a line for each pair of data set and backbone."""
    tasks = pipeline.tasks
    if not tasks:
        there = "there" if pipeline.is_reported else "not there yet"
        return f"{pipeline.path}: no cells; runs in full in minutes on a CPU; its report is {there}"
    here, elsewhere = [task for task in tasks if task.trains], borrowed(tasks)
    counts = [f"{len(tasks)} cells, {sum(task.done for task in tasks)} done"]
    counts += [f"{len(here)} pretrainings, {sum(task.pretrain_done for task in here)} done"]
    counts += [
        f"{len(found)} more from {grid}, {sum(task.pretrain_done for task in found)} done"
        for grid, found in elsewhere.items()
    ]
    rows = [row(group, measured) for group in grouped(tasks)]
    lines = [f"{pipeline.path}: {'; '.join(counts)}", aligned(COLUMNS, rows, num_left=2), *wrapped(axes(tasks))]
    return "\n".join([*lines, *wrapped(f"left: {left_over([pipeline], measured)}")])


def grouped(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return the cells of each pair of data set and backbone."""
    order = list(dict.fromkeys(pair(task) for task in tasks))
    by_pair = sorted(tasks, key=lambda task: order.index(pair(task)))
    return [list(group) for _, group in groupby(by_pair, key=pair)]


def pair(task: Task) -> tuple[str, str]:
    """Return data set and backbone."""
    return task.cell.dataset, task.cell.backbone


def row(group: list[Task], measured: Measured) -> list[str]:
    """Return the columns of some cells."""
    here = [task for task in group if task.trains]
    trained = ["frozen", "fetched" if group[0].pretrain_done else "to fetch"]
    if group[0].owner:
        trained = [str(len(here)), str(sum(task.pretrain_done for task in here))]
    done = sum(task.probe_done for task in group)
    return [*pair(group[0]), str(len(group)), str(done), *trained, images_seen(here), time_left(group, measured)]


def images_seen(trained: Sequence[Task]) -> str:
    """Say how many training images some pretrainings see, each as often as it is seen."""
    known = [task.images_seen for task in trained if task.images_seen is not None]
    if trained and not known:
        return UNKNOWN
    return f"{'at least ' * (len(known) < len(trained))}{sum(known):,}" if trained else "-"


def time_left(group: Iterable[Task], measured: Measured) -> str:
    """Say how long some cells take, with the pretrainings of this grid alone."""
    found = [seconds for task in group for seconds in costs(task, measured)]
    if None in found:
        unknown = any(task.train_set is None or task.probe_set is None for task in group)
        return "unknown" if unknown else "cannot run here"
    return duration(sum(found))


def costs(task: Task, measured: Measured) -> list[float | None]:
    """Return the seconds that are left of a cell in its own pipeline."""
    return [probing_seconds(task, measured)] + [training_seconds(task, measured)] * (task.trains)


def borrowed(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Return a cell for each pretraining that another grid does, by that grid."""
    found: dict[str, dict] = {}
    for task in tasks:
        if task.owner and task.owner.grid != task.cell.grid:
            found.setdefault(task.owner.grid, {}).setdefault(task.owner, task)
    return {grid: list(owners.values()) for grid, owners in found.items()}


def axes(tasks: Sequence[Task]) -> str:
    """Say which values of the other axes the cells have."""
    values: dict[str, dict[str, None]] = {}
    for task in tasks:
        for axis, value in task.cell.axes.items():
            if axis not in ("dataset", "backbone") and value is not None:
                values.setdefault(axis, {})[str(value).lower() if isinstance(value, bool) else str(value)] = None
    if all(task.cell.target == "" for task in tasks):
        values.pop("target", None)
    return "with " + "; ".join(f"{axis} {', '.join(found)}" for axis, found in values.items())


def left_over(pipelines: Sequence[Pipeline], measured: Measured) -> str:
    """Say how long everything takes that is left, each pretraining once."""
    found = [seconds for _, seconds in parts(pipelines, measured)]
    if not found:
        return "none for cells; `dvc status` tells of analyses, the page, and what changed since"
    return f"{summed(found)} on this machine, one stage after the other"


def summed(seconds: Sequence[float | None]) -> str:
    """Add up the seconds that are known and say how many are not."""
    known = [one for one in seconds if one is not None]
    unknown = len(seconds) - len(known)
    return " + ".join([duration(sum(known))] * bool(known) + [f"{unknown} unknown"] * bool(unknown))


def stages_text(pipelines: Sequence[Pipeline], measured: Measured) -> str:
    """Return a line for each stage: how often it runs, and how long."""
    found: dict[str, list[float | None]] = {}
    for stage, seconds in parts(pipelines, measured):
        found.setdefault(stage, []).append(seconds)
    rows = [[stage, str(len(seconds)), summed(seconds)] for stage, seconds in found.items()]
    return aligned(STAGE_COLUMNS, rows, num_left=1) if rows else ""


def totals(pipelines: Sequence[Pipeline], measured: Measured) -> Iterator[str]:
    """Say what all pipelines cost together, and what has to be fetched for them."""
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    todo = [task for task in sources(tasks) if not task.pretrain_done]
    downloads, by_hand = needs(pipelines)
    trained = [task for task in todo if task.owner]
    yield from filter(None, [stages_text(pipelines, measured)])
    yield from wrapped(f"cells        {len(tasks)}, {sum(task.done for task in tasks)} done", 13)
    yield from wrapped(f"pretraining  {len(trained)} to do; {images_seen(trained)} images seen", 13)
    yield from wrapped(f"time         {left_over(pipelines, measured)}", 13)
    yield from wrapped(f"disk         {disk(pipelines, todo, measured)}", 13)
    yield from wrapped(f"downloads    {'; '.join(downloads + models(todo)) or 'none'}", 13)
    yield from wrapped(f"by hand      {'nothing' if not by_hand else ''}".rstrip(), 13)
    yield from (f"  {line}" for line in by_hand)


def disk(pipelines: Sequence[Pipeline], todo: Sequence[Task], measured: Measured) -> str:
    """Say what is to come on disk: weights, the checkpoints of one cell, packed data."""
    params = [measured.speeds[task.load].sketch.num_params for task in todo if task.load in measured.speeds]
    at_least = "at least " * (len(params) < len(todo))
    facts = {name: one for pipeline in pipelines for name, one in pipeline.facts.items()}
    unknown = ", ".join(name for name, one in facts.items() if one is None)
    packed = size(2 * sum(one.num_bytes for one in facts.values() if one and not one.is_packed))
    checkpoints = size(3 * CHECKPOINT_BYTES_A_PARAM * max(params, default=0))
    return (
        f"to come, DVC's copies counted: weights {at_least}{size(8 * sum(params))}, checkpoints {checkpoints} while a "
        f"cell trains, packed data about {packed}{f', {UNKNOWN} for {unknown}' if unknown else ''}"
    )


def models(todo: Iterable[Task]) -> list[str]:
    """Name the frozen models that are fetched, and from where."""
    missing = {task.cell.backbone: task.model for task in todo if task.model and not task.model.random_init}
    return [f"{name} ({model.pretrained_path or published(model.backbone).address})" for name, model in missing.items()]


def needs(pipelines: Sequence[Pipeline]) -> tuple[list[str], list[str]]:
    """Return what is downloaded by itself, and lines about what a person must fetch, for sets that are not packed."""
    downloads, by_hand = [], []
    facts = {name: (one, pipeline.params) for pipeline in pipelines for name, one in pipeline.facts.items()}
    for name, (one, params) in facts.items():
        entry = params.datasets[name]
        if one and one.is_packed:
            continue
        told, local = getattr(entry, "by_hand", None), getattr(entry, "path", None)
        if told:
            folder = user_path(told.path)
            files = [f"{file} ({'there' if (folder / file).exists() else 'missing'})" for file in told.files]
            by_hand += [f"{name}: {told.what}", f"  from  {told.origin}", f"  to    {told.path}"]
            by_hand += [f"  files {', '.join(files)}"]
        elif local:
            by_hand += [f"{name}: files of your own, at {local}"]
        elif entry.source not in ("bundled", "sklearn"):
            downloads.append(f"{name} ({_address(entry)})")
    return downloads, by_hand


def _address(entry: Dataset) -> str:
    if entry.source == "torchvision":
        return f"torchvision.datasets.{entry.dataset}"
    return f"huggingface.co/datasets/{entry.repo}" if entry.source == "huggingface" else str(entry.url)


def speeds_text(measured: Measured) -> Iterator[str]:
    """Say what was not timed itself, and under which conditions the others were."""
    scaled: dict[str, dict[str, None]] = {}
    for load, found in measured.speeds.items():
        if found.timed != load.backbone:
            scaled.setdefault(found.timed, {})[load.backbone] = None
    if scaled:
        yield "Too large or too many to be timed: scaled by operations from a smaller one of the family"
        for name, backbones in scaled.items():
            yield from wrapped(f"  {name}: {', '.join(backbones)}", 4)
    if measured.crowded:
        yield "Other programs keep the cores busy, so one thread was measured: when they end, training is faster."
    if measured.speeds:
        yield "Whether a whole batch fits into memory is not checked."


def problems(pipelines: Sequence[Pipeline], measured: Measured) -> list[str]:
    """Name everything because of which a cell cannot run; each once."""
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    found = [problem for pipeline in pipelines for problem in pipeline.problems]
    found += [measured.failures[task.load] for task in tasks if task.load in measured.failures]
    for task in tasks:
        if not task.pretrain_done and task.train_set and task.train_set.num_train < task.pretrain.batch_size:
            found.append(
                f"pretrain.batch_size must be <= the {task.train_set.num_train} training images of "
                f"{task.cell.dataset}, got {task.pretrain.batch_size}; lower it"
            )
    return list(dict.fromkeys(found))


def aligned(columns: Sequence[str], rows: list[list[str]], *, num_left: int) -> str:
    """Align columns with spaces: the first `num_left` to the left, the others to the right."""
    table = [list(columns), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        return (
            "  " + "  ".join(f"{text:{'<' if i < num_left else '>'}{w}}" for i, (text, w) in enumerate(cells)).rstrip()
        )

    return "\n".join(line(row) for row in table)


def wrapped(text: str, indent: int = 2) -> list[str]:
    """Break a line that is wider than WIDTH; what follows is indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best."""
    for unit, length, below in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72), ("days", 86400, 730)):
        if seconds < below * length:
            return f"{seconds / length:.{0 if unit in ('s', 'days') else 1}f} {unit}"
    return f"{seconds / 31_557_600:,.1f} years"


def size(num_bytes: float) -> str:
    """Return bytes in the unit that reads best."""
    for unit, length in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if num_bytes < 1000 * length:
            return f"{num_bytes / length:.1f} {unit}"
    return f"{num_bytes / 1e12:.1f} TB"
