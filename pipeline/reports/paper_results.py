"""Results of a pipeline's cells: probe scores and image counts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.results import collapsed_at
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import read_json
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

SCORE = re.compile(r".*top1(_\d+shot)?")


@dataclass(frozen=True)
class Result:
    """One probed cell.

    Attributes:
        metrics: numbers of probe/metrics.json; scores are fractions in [0, 1].
        num_pretrain: images of the pretraining; None for a frozen model.
        num_train: images of the probed set's training split; None if data/<name>/meta.json is gone.
        num_test: images that the scores are fractions of; None likewise.
        trained_on: device, processor and commit of the pretraining; empty for a frozen model.
        collapsed_at: epoch at which the pretraining collapsed; 0 if it did not.
    """

    metrics: Mapping[str, float]
    num_pretrain: int | None = None
    num_train: int | None = None
    num_test: int | None = None
    trained_on: str = ""
    collapsed_at: int = 0


def read_results(listing: Listing, command: str) -> tuple[dict[Cell, Result], list[str]]:
    """Read every cell that has been probed.

    Args:
        listing: the cells, and who trained their weights.
        command: what makes a missing file, for the messages.

    Returns:
        {cell: result} of the cells with sound scores, and one line per file that is broken or, beside finished scores,
        missing. A cell that was not probed is in neither.
    """
    results: dict[Cell, Result] = {}
    problems: list[str] = []

    def read(path: Path) -> dict[str, Any]:
        try:
            return read_json(path)
        except ResultError as error:
            problems.append(str(error).replace("dvc repro", command))  # the file is of this pipeline, not of the root
            return {}

    for cell in listing.cells:
        path = cell.folder / "probe/metrics.json"
        metrics = read(path) if path.exists() else {}
        if wrong := _not_fractions(metrics):
            problems.append(f"{path}: {wrong}; remove it and run: {command}")
        elif metrics:
            trained = listing.owners[cell].folder / "pretrain" if not cell.frozen else None
            results[cell] = Result(metrics, **_counts(read, trained, Path("data") / cell.probed_on))
    return results, list(dict.fromkeys(problems))


def _not_fractions(metrics: Mapping[str, Any]) -> str:
    scores = {name: value for name, value in metrics.items() if SCORE.fullmatch(name)}
    wrong = [f"{name} is {value!r}" for name, value in scores.items() if not _is_fraction(value)]
    return f"scores must be fractions in [0, 1], but {', '.join(wrong)}" if wrong else ""


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _counts(read: Callable[[Path], dict[str, Any]], trained: Path | None, data: Path) -> dict[str, Any]:
    splits = read(data / "meta.json").get("splits", {})
    counts: dict[str, Any] = {f"num_{name}": splits.get(name, {}).get("num_images") for name in ("train", "test")}
    if trained:
        summary = read(trained / "metrics.json")
        counts |= {"num_pretrain": summary.get("num_images"), "collapsed_at": collapsed_at(summary)}
        if made := read(trained / "provenance.json"):
            hardware = made["hardware"]
            counts["trained_on"] = f"{hardware['device']}, {hardware['cpu']}, commit {made['commit']}"
    return counts
