"""What `python -m stages.plan` prints: a line a cell, what was measured, totals, and what has to be fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.catalogue import ByHand, Dataset
from pipeline.costs import Measured, around_s, cost_left
from pipeline.planning import Pipeline, Task
from pipeline.speed import STAND_IN

UNKNOWN = "unknown until downloaded"
COLUMNS = ("data set", "backbone", "lambda", "seed", "pretrain", "probe", "images seen", "views embedded", "time left")
MEASURED_COLUMNS = ("backbone", "image px", "parameters", "batch", "training images/s", "embedding images/s")


def plan_text(pipeline: Pipeline, measured: Measured) -> str:
    """Return the whole plan of one pipeline."""
    tasks, num_done = pipeline.tasks, sum(task.done for task in pipeline.tasks)
    counts = f"{len(tasks)} cells, {num_done} done, {len(tasks) - num_done} left"
    parts = [
        f"{pipeline.path}: grid {pipeline.grid!r}, {counts}",
        aligned(COLUMNS, [cell_line(task, measured) for task in tasks], num_left=2),
        "\n".join(totals(pipeline, measured)),
        "\n".join(measurements(tasks, measured)),
        "\n".join(problems(tasks, measured)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell_line(task: Task, measured: Measured) -> list[str]:
    """Return the columns of one cell."""
    cell, seen = task.cell, task.images_seen
    left = cost_left(task, measured)
    waits = "unknown" if task.facts is None else "cannot run here"
    return [
        cell.dataset,
        cell.backbone,
        str(cell.lamb),
        str(cell.seed),
        "done" if task.pretrain_done else "to do",
        "done" if task.probe_done else "to do",
        UNKNOWN if seen is None else f"{seen:,}",
        UNKNOWN if seen is None else f"{seen * task.num_views:,}",
        duration(left.total_s) if left else waits,
    ]


def totals(pipeline: Pipeline, measured: Measured) -> Iterator[str]:
    """Say what the cells that are left cost together, and what has to be fetched for them."""
    left = [task for task in pipeline.tasks if not task.done]
    if not left:
        yield "Nothing is left to run, unless code or settings changed since: `dvc status` tells."
        return
    to_train = [task for task in left if not task.pretrain_done]
    seen = [(task.images_seen, task.num_views) for task in to_train if task.images_seen is not None]
    at_least = "" if len(seen) == len(to_train) else "at least "
    numbers = sum(images for images, _ in seen), sum(images * views for images, views in seen)
    shown = [UNKNOWN] * 2 if to_train and not seen else [f"{at_least}{number:,}" for number in numbers]
    yield f"images seen      {shown[0]}"
    yield f"views embedded   {shown[1]}"
    yield f"time left        {_time_left(pipeline, left, measured)}"
    yield f"disk             {_disk(pipeline, to_train, measured)}"
    downloads, by_hand = needs(pipeline.entries())
    yield f"downloads        {'; '.join(downloads) or 'none'}"
    yield f"by hand          {'nothing' if not by_hand else ''}".rstrip()
    yield from (f"  {line}" for line in by_hand)


def _time_left(pipeline: Pipeline, left: list[Task], measured: Measured) -> str:
    costs = [cost for cost in (cost_left(task, measured) for task in left) if cost]
    if not costs:
        return "unknown: no cell has both its data set and a backbone that runs here"
    around = around_s(pipeline, measured)
    training, probing = sum(cost.pretrain_s for cost in costs), sum(cost.probe_s for cost in costs)
    overhead = sum(cost.overhead_s for cost in costs) + around
    total = training + probing + overhead
    parts = f"training {duration(training)}, probes {duration(probing)}, starting and tracking {duration(overhead)}"
    unknown = f"; without {len(left) - len(costs)} cells of unknown cost" * (len(costs) < len(left))
    return f"{total / 3600:,.2f} h on this machine ({parts}{unknown})"


def _disk(pipeline: Pipeline, to_train: list[Task], measured: Measured) -> str:
    found = [measured.speeds[task.load] for task in to_train if task.load in measured.speeds]
    at_least = "" if len(found) == len(to_train) else "at least "
    weights = f"weights {at_least}{size(2 * sum(one.num_params * 4 for one in found))}"
    checkpoints = f"checkpoints {size(3 * max((one.checkpoint_bytes for one in found), default=0))} while a cell trains"
    facts = {task.cell.dataset: task.facts for task in pipeline.tasks}
    unknown = [name for name, one in facts.items() if one is None]
    known = [one for one in facts.values() if one]
    packed = sum(one.num_bytes for one in known if one.is_packed)
    to_pack = sum(one.num_bytes for one in known) - packed
    parts = [f"{size(2 * packed)} there already"] if packed else []
    parts += [f"at most {size(2 * to_pack)} to come"] if to_pack else []
    parts += [f"{UNKNOWN} for {', '.join(unknown)}"] if unknown else []
    return f"{weights}; {checkpoints}; packed data {', '.join(parts)} (DVC's cache counted as a second copy)"


def needs(entries: dict[str, Dataset]) -> tuple[list[str], list[str]]:
    """Return what the pipeline downloads by itself, and lines about what a person must fetch, for sets not packed."""
    downloads, by_hand = [], []
    for name, entry in entries.items():
        if (Path("data") / name / "meta.json").is_file():
            continue
        told: ByHand | None = getattr(entry, "by_hand", None)
        local = getattr(entry, "path", None)
        if told:
            by_hand += _told(name, told)
        elif local:
            by_hand += [f"{name}: files of your own, at {local}"]
        elif entry.source not in ("bundled", "sklearn"):
            downloads.append(f"{name} ({_address(entry)})")
    return downloads, by_hand


def _told(name: str, told: ByHand) -> list[str]:
    folder = Path(told.path).expanduser()
    files = [f"{file} ({'there' if (folder / file).exists() else 'missing'})" for file in told.files]
    return [f"{name}: {told.what}", f"  from  {told.origin}", f"  to    {told.path}", f"  files {', '.join(files)}"]


def _address(entry: Dataset) -> str:
    if entry.source == "torchvision":
        return f"torchvision.datasets.{entry.dataset}"
    return f"huggingface.co/datasets/{entry.repo}" if entry.source == "huggingface" else str(entry.url)


def measurements(tasks: list[Task], measured: Measured) -> Iterator[str]:
    """Show how fast each backbone is here, so that a reader can scale the estimate."""
    rows, scaled = [], False
    for load, found in measured.speeds.items():
        task = next((task for task in tasks if not task.done and task.load == load), None)
        if task is None:
            continue
        batch_size = task.pretrain.batch_size
        scaled |= found.measured_batch < batch_size
        timed = f" from {found.measured_batch or STAND_IN}" * (found.measured_batch != batch_size)
        rates = rate(batch_size / found.step_s), rate(1 / found.embed_image_s)
        rows.append(
            [
                load.backbone,
                f"{load.canvas[1]}x{load.canvas[2]}",
                f"{found.num_params:,}",
                f"{batch_size}{timed}",
                *rates,
            ]
        )
    if rows:
        yield "Measured on this machine (an image is trained on with all its views):"
        yield aligned(MEASURED_COLUMNS, rows, num_left=2)
    if rows and measured.crowded:
        yield "Other programs keep the cores busy, so one thread was measured: when they end, training is faster."
    if scaled:
        yield "'512 from 4': steps of 4 images were timed and scaled. '512 from <name>': too large for a short"
        yield "measurement; <name> was timed and scaled by the ratio of floating point operations."


def problems(tasks: Sequence[Task], measured: Measured) -> list[str]:
    """Name everything because of which a cell cannot run; each once."""
    found = [f"PROBLEM: {measured.failures[task.load]}" for task in tasks if task.load in measured.failures]
    for task in tasks:
        if not task.done and task.facts and task.facts.num_train < task.pretrain.batch_size:
            found.append(
                f"PROBLEM: pretrain.batch_size must be <= the {task.facts.num_train} training images of "
                f"{task.cell.dataset}, got {task.pretrain.batch_size}; lower it"
            )
    return list(dict.fromkeys(found))


def aligned(columns: Sequence[str], rows: list[list[str]], *, num_left: int) -> str:
    """Align columns with spaces: the first `num_left` to the left, the others to the right."""
    table = [list(columns), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(f"{text:{'<' if i < num_left else '>'}{w}}" for i, (text, w) in enumerate(cells)).rstrip()

    return "\n".join(line(row) for row in table)


def rate(per_second: float) -> str:
    """Return a rate with three significant digits."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best."""
    for unit, length, below in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds < below * length:
            return f"{seconds / length:.{0 if unit == 's' else 1}f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def size(num_bytes: float) -> str:
    """Return bytes in the unit that reads best."""
    for unit, length in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if num_bytes < 1000 * length:
            return f"{num_bytes / length:.1f} {unit}"
    return f"{num_bytes / 1e12:.1f} TB"
