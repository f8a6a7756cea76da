"""What `python -m stages.plan` prints: the cells of each pipeline, then what all of them cost and need together."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pipeline.backbones import published
from pipeline.catalogue import Dataset
from pipeline.costs import CHECKPOINT_BYTES_A_PARAM, Cost, Measured, around_s, probing_cost, training_cost
from pipeline.planning import Pipeline, Task
from pipeline.speed import Load, Speed, view_counts

UNKNOWN = "unknown until downloaded"
WIDTH = 120
COLUMNS = ("data set", "backbone", "cells", "done", "trained here", "done", "images seen", "time left")
SPEED_COLUMNS = ("backbone", "image px", "parameters", "GFLOP", "timed at", "images/s trained", "images/s embedded")


def pipeline_text(pipeline: Pipeline, measured: Measured) -> str:
    """Return the cells of one pipeline, a line for each pair of data set and backbone."""
    tasks = pipeline.tasks
    if not tasks:
        there = "there" if pipeline.report.is_file() else "not there yet"
        return f"{pipeline.path}: no cells; runs in full in minutes on a CPU; {pipeline.report} is {there}"
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
    found = [cost for task in group for cost in costs(task, measured)]
    if None in found:
        unknown = any(task.train_set is None or task.probe_set is None for task in group)
        return "unknown" if unknown else "cannot run here"
    return duration(sum(cost.total_s for cost in found if cost))


def costs(task: Task, measured: Measured) -> list[Cost | None]:
    """Return what is left of a cell in its own pipeline."""
    return [probing_cost(task, measured)] + [training_cost(task, measured)] * (task.trains)


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
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    if all(task.done for task in tasks):
        return "nothing, unless code or settings changed since: `dvc status` tells"
    parts = [probing_cost(task, measured) for task in tasks]
    parts += [training_cost(task, measured) for task in sources(tasks)]
    known = [cost for cost in parts if cost]
    if not any(cost.total_s for cost in known):
        return "unknown: no cell has both its data set and a backbone that runs here"
    pretrain_s, probe_s, overhead_s = (sum(part) for part in zip(*known, strict=True))
    overhead_s += around_s(tasks, len([pipeline for pipeline in pipelines if pipeline.tasks]), measured)
    total_s = pretrain_s + probe_s + overhead_s
    hours = f"{total_s / 3600:,.{0 if total_s > 360_000 else 2}f} h on this machine ({duration(total_s)})"
    text = f"{hours}: training {duration(pretrain_s)}, probes {duration(probe_s)}, "
    text += f"starting and tracking {duration(overhead_s)}"
    unknown = len(parts) - len(known)
    return text + f"; without {unknown} stages of unknown cost" * (unknown > 0)


def sources(tasks: Iterable[Task]) -> list[Task]:
    """Return one cell for each pretraining and each frozen model, whichever grid makes it."""
    found: dict = {}
    for task in tasks:
        found.setdefault(task.owner or task.cell.backbone, task)
    return list(found.values())


def totals(pipelines: Sequence[Pipeline], measured: Measured) -> Iterator[str]:
    """Say what all pipelines cost together, and what has to be fetched for them."""
    tasks = [task for pipeline in pipelines for task in pipeline.tasks]
    todo = [task for task in sources(tasks) if not task.pretrain_done]
    entries = {name: entry for pipeline in pipelines for name, entry in pipeline.datasets.items()}
    downloads, by_hand = needs(entries)
    trained = [task for task in todo if task.owner]
    yield from wrapped(f"cells        {len(tasks)}, {sum(task.done for task in tasks)} done", 13)
    yield from wrapped(f"pretraining  {len(trained)} to do; {images_seen(trained)} images seen", 13)
    yield from wrapped(f"time         {left_over(pipelines, measured)}", 13)
    yield from wrapped(f"disk         {disk(tasks, todo, measured)}", 13)
    yield from wrapped(f"downloads    {'; '.join(downloads + models(todo)) or 'none'}", 13)
    yield from wrapped(f"by hand      {'nothing' if not by_hand else ''}".rstrip(), 13)
    yield from (f"  {line}" for line in by_hand)


def disk(tasks: Sequence[Task], todo: Sequence[Task], measured: Measured) -> str:
    """Say what is to come on disk: weights, the checkpoints of one cell, packed data."""
    params = [measured.speeds[task.load].sketch.num_params for task in todo if task.load in measured.speeds]
    at_least = "at least " * (len(params) < len(todo))
    checkpoints = 3 * CHECKPOINT_BYTES_A_PARAM * max(params, default=0)
    facts = {task.cell.dataset: task.train_set for task in tasks} | {t.cell.probed_on: t.probe_set for t in tasks}
    unknown = [name for name, one in facts.items() if one is None]
    packed = sum(one.num_bytes for one in facts.values() if one and one.is_packed)
    to_pack = sum(one.num_bytes for one in facts.values() if one and not one.is_packed)
    parts = [f"{size(2 * packed)} there already"] * (packed > 0) + [f"about {size(2 * to_pack)} to come"] * (
        to_pack > 0
    )
    parts += [f"{UNKNOWN} for {', '.join(unknown)}"] if unknown else []
    return (
        f"weights {at_least}{size(8 * sum(params))}; checkpoints {size(checkpoints)} while a cell trains; "
        f"packed data {', '.join(parts)} (DVC's cache counted as a second copy)"
    )


def models(todo: Iterable[Task]) -> list[str]:
    """Name the frozen models that are fetched, and from where."""
    missing = {task.cell.backbone: task.model for task in todo if task.model and not task.model.random_init}
    return [f"{name} ({model.pretrained_path or published(model.backbone).address})" for name, model in missing.items()]


def needs(entries: dict[str, Dataset]) -> tuple[list[str], list[str]]:
    """Return what is downloaded by itself, and lines about what a person must fetch, for sets that are not packed."""
    downloads, by_hand = [], []
    for name, entry in entries.items():
        if (Path("data") / name / "meta.json").is_file():
            continue
        told, local = getattr(entry, "by_hand", None), getattr(entry, "path", None)
        if told:
            folder = Path(told.path).expanduser()
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
    """Show how fast each backbone is here, which was timed and which was scaled from another."""
    timed, scaled = [], {}
    for load, found in measured.speeds.items():
        if found.timed == load.backbone:
            timed.append(speed_row(load, found))
        else:
            scaled.setdefault(found.timed, {})[load.backbone] = None
    if timed:
        yield "Timed on this machine (images are trained on with all their views):"
        yield aligned(SPEED_COLUMNS, timed, num_left=2)
    if scaled:
        yield "Too large or too many to be timed: scaled by operations from a smaller one of the family"
        for name, backbones in scaled.items():
            yield from wrapped(f"  {name}: {', '.join(backbones)}", 4)
    if measured.crowded:
        yield "Other programs keep the cores busy, so one thread was measured: when they end, training is faster."
    if measured.speeds:
        yield "Whether a whole batch fits into memory is not checked."


def speed_row(load: Load, found: Speed) -> list[str]:
    """Return the columns of one timed backbone."""
    views, sizes = json.loads(load.sample)["views"], json.loads(load.settings)["sizes"]
    operations = sum(found.sketch.operations[px] for px in sizes)
    train_s, embed_s = found.train_s(view_counts(views)), found.embed_s(sizes[0])
    px, counts = "+".join(map(str, sizes)), (f"{found.sketch.num_params:,}", f"{operations / 1e9:.3g}")
    return [load.backbone, px, *counts, str(found.timing.batch), rate(1 / train_s), rate(1 / embed_s)]


def problems(tasks: Sequence[Task], measured: Measured) -> list[str]:
    """Name everything because of which a cell cannot run; each once."""
    found = [measured.failures[task.load] for task in tasks if task.load in measured.failures]
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


def rate(per_second: float) -> str:
    """Return a rate with three significant digits."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


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
