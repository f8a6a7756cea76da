"""Selected runs: the rule, and the files that other stages read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import sha256_file
from pipeline.schema.resolved_analyses import Shown
from pipeline.selection.correlation import ALL, Entry
from pipeline.selection.criteria import RULE, Criterion, Run
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

MOST_DRAWN = 60  # more lines in a chart tell nothing and take megabytes


def rule_entries(entries: Iterable[Entry], exponent: float) -> list[Entry]:
    """Return the entries of the rule that picks runs, lowest train_loss / lambda^exponent, means over tasks aside."""
    return [e for e in entries if (e.criterion, e.a) == (RULE, exponent) and e.dataset != ALL]


def picked(entries: Iterable[Entry], exponent: float) -> dict[str, str]:
    """Return {task: key of the cell that the rule picks among all its runs}."""
    return {entry.dataset: entry.pick for entry in rule_entries(entries, exponent) if entry.backbone == ALL}


def drawn_cells(cells: Sequence[Mapping[str, Any]], entries: Iterable[Entry]) -> list[Mapping[str, Any]]:
    """Choose the cells whose health is drawn: all, or of a task that has too many the picked run of each backbone.

    Args:
        cells: `health` of `runs.read_runs`.
        entries: of `rule_entries`.
    """
    picks = {entry.pick for entry in entries}
    counts = Counter(cell["dataset"] for cell in cells)
    return [cell for cell in cells if counts[cell["dataset"]] <= MOST_DRAWN or cell["cell"] in picks]


def documents(
    listing: Listing, runs: Mapping[Cell, Run], entries: Iterable[Entry], exponent: float
) -> dict[str, dict[str, Any]]:
    """Write the picks of every task as JSON values, with the checksums of their weights.

    Args:
        listing: says where the weights lie.
        runs: of `runs.read_runs`.
        entries: of `correlation.select`.
        exponent: a of the rule.

    Returns:
        {task: value of picks/<task>.json}.

    Raises:
        ResultError: the weights of a picked run are not there.
    """
    cells = {cell.key: cell for cell in runs}
    rules = rule_entries(entries, exponent)
    found: dict[str, dict[str, Any]] = {}
    for dataset, key in picked(entries, exponent).items():
        cell = cells[key]
        by_backbone = {
            entry.backbone: _weights(listing, cells[entry.pick])
            for entry in rules
            if entry.dataset == dataset and entry.backbone != ALL
        }
        rule = Criterion(RULE, exponent).label
        named = {"dataset": dataset, "criterion": rule, "cell": key, "backbone": cell.backbone}
        found[dataset] = {**named, **by_backbone[cell.backbone], "by_backbone": by_backbone}
    return found


def _weights(listing: Listing, cell: Cell) -> dict[str, Any]:
    path = Path(listing.weights(cell))
    if not path.exists():
        raise ResultError(f"no {path}, the weights of a picked run; make it with: dvc repro")
    return {
        "cell": cell.key,
        "lambda": cell.lamb,
        "seed": cell.seed,
        "weights": str(path),
        "sha256": sha256_file(path),
        "shown": Shown.of(*listing.settings(cell)[:2]).model_dump(mode="json"),
    }
