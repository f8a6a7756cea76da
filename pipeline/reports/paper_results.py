"""Results of a pipeline's cells: probe scores and image counts, a row per probed cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.results import collapsed_at
from pipeline.reports.run_facts import FACTS, run_facts
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import is_number, read_json
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

SCORE = re.compile(r".*top1(_\d+shot)?")
COUNTS = ["num_pretrain", "num_train", "num_test"]


def read_results(listing: Listing, command: str) -> tuple[pd.DataFrame, list[str]]:
    """Read every cell that has been probed.

    Args:
        listing: the cells, and who trained their weights.
        command: what makes a missing file, for the messages.

    Returns:
        A row per cell with sound scores, by key: what probe/metrics.json holds (scores as fractions); the images of
        pretraining, of the probed set's training split and its test split (nan where not known); `trained_on`: device,
        processor and commit of the pretraining, "" for a frozen model; `collapsed_at`: the epoch, 0 for a sound run.
        And one line per file that is broken or, beside finished scores, missing. A cell that was not probed is in
        neither.
    """
    rows: dict[str, dict[str, Any]] = {}
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
            trained = None if cell.frozen else listing.owners[cell].folder / "pretrain"
            rows[cell.key] = metrics | _facts(read, trained, cell)
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.reindex(columns=found.columns.union([*COUNTS, *FACTS, "trained_on", "collapsed_at"])), [
        *dict.fromkeys(problems)
    ]


def _not_fractions(metrics: Mapping[str, Any]) -> str:
    scores = {name: value for name, value in metrics.items() if SCORE.fullmatch(name)}
    wrong = [f"{name} is {value!r}" for name, value in scores.items() if not (is_number(value) and 0 <= value <= 1)]
    return f"scores must be fractions in [0, 1], but {', '.join(wrong)}" if wrong else ""


def _facts(read: Callable[[Path], dict[str, Any]], trained: Path | None, cell: Cell) -> dict[str, Any]:
    splits = read(Path("data") / cell.probed_on / "meta.json").get("splits", {})
    facts: dict[str, Any] = {f"num_{name}": splits.get(name, {}).get("num_images") for name in ("train", "test")}
    facts |= {"trained_on": "", "collapsed_at": 0}
    if trained:
        facts |= run_facts(trained, cell.configs / "probe.json", read)
        summary = read(trained / "metrics.json")
        facts |= {"num_pretrain": summary.get("num_images"), "collapsed_at": collapsed_at(summary)}
        if made := read(trained / "provenance.json"):
            hardware = made["hardware"]
            facts["trained_on"] = f"{hardware['device']}, {hardware['cpu']}, commit {made['commit']}"
    return facts
