"""The files of one cell: formats, readers and writers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import write_json, write_text

# history.csv has the columns epoch, loss, the parts of the objective's loss, lr: each but the epoch is logged as
# train/<name> with the epoch as step. Further columns are what was watched (pipeline/training/held_out.py), logged as
# watch/<name>.
FIXED = ("epoch", "loss", "lr")


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the curves, one row an epoch: epoch, `curves` and what was watched, if anything was.

    Raises:
        ResultError: if the file is missing or broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise ResultError(f"no {path}; make it with: dvc repro") from None
    except (ValueError, TypeError) as error:
        raise ResultError(f"{path} is broken ({error}); remove it and run: dvc repro") from None
    if not rows or not set(FIXED) <= rows[0].keys():
        raise ResultError(f"{path} must have the columns {', '.join(FIXED)}; remove it and run: dvc repro")
    return rows


def curves(row: dict[str, float]) -> list[str]:
    """Return the columns of a row of the history that describe training: loss, its parts and lr."""
    names = list(row)
    return names[names.index("epoch") + 1 : names.index("lr") + 1]


def write_pretraining(
    folder: Path, history: list[dict[str, float]], metrics: dict[str, Any], provenance: dict[str, Any]
) -> None:
    """Write what a finished training says of itself: history.csv, metrics.json and provenance.json."""
    write_history(folder / "history.csv", history)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "provenance.json", provenance)


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the curves, one row an epoch; numbers read back exactly.

    What was watched in some epochs alone, since the settings changed between two parts of a run, is nan in the others.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, math.nan) for name in names] for row in rows)]
    write_text(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def shown_alarms(summary: dict[str, Any]) -> dict[str, int]:
    """Return the alarms of a pretraining's metrics.json as tables show them: {"collapse": 3} of a run that collapsed.

    A collapse that had passed by the last epoch is called so: its numbers are those of a sound run.
    """
    alarms: dict[str, int] = summary.get("alarms", {})
    passed = "collapse" if summary.get("collapsed") else "passing collapse"
    return {passed if name == "collapse" else name: epoch for name, epoch in alarms.items()}


def collapsed_at(summary: dict[str, Any]) -> int:
    """Return the epoch at which a pretraining collapsed for good, from its metrics.json; 0 if it did not."""
    return shown_alarms(summary).get("collapse", 0)
