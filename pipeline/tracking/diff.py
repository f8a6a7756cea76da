"""Differences between an MLflow run and the files of its cell."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.results import read_json
from pipeline.tracking.record import Record

# The file of a cell's folder that holds the metrics <key>/<name>, or the tag <key>.
FILES = {
    "train": "pretrain/history.csv",
    "health": "pretrain/history.csv",
    "pretrain": "pretrain/metrics.json",
    "alarm": "pretrain/metrics.json",
    "probe": "probe/metrics.json",
    "criteria": "probe/health.json",
    "alarms": "pretrain/metrics.json",
    "commit": "pretrain/provenance.json",
    "mlflow.source.git.commit": "pretrain/provenance.json",
}


class Logged(NamedTuple):
    """What a run holds: points are (name, step, value), files the names of its artifacts."""

    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, int, float]]
    files: set[str]


def all_tags(record: Record) -> dict[str, str]:
    """Return the tags of a record's run, with MLflow's own one for the commit."""
    return {**record.tags, "mlflow.source.git.commit": record.commit.removesuffix("-dirty")}


def recorded_picks(folder: Path) -> dict[str, str]:
    """Return {cell: what picked it} of the files that the diagnosis wrote, reports/diagnosis/<grid>/picks/*.json.

    Raises:
        ResultError: one of them is broken.
    """
    picks = map(read_json, sorted(folder.glob("*.json")))
    return {pick["cell"]: pick["criterion"] for pick in picks if "absent" not in pick}


def contradictions(logged: Logged, record: Record) -> Iterator[str]:
    """Name every param and point of a run that is not the record's; what it merely lacks is not named."""
    for name, found in logged.params.items():
        value = record.params.get(name, "absent")
        if found != value:
            yield f"param {name} is {found} in MLflow but {value} in {_config(name, record)}"
    seen = set()
    for name, step, found in logged.points:
        value = record.metrics.get((name, step))
        if (name, step) in seen:
            yield f"metric {name} has duplicate points at step {step} in MLflow"
        elif value is None:
            yield f"metric {name} has a point at step {step} in MLflow, {found!r}, but none in {_file(name)}"
        elif found != _kept(value) and not (math.isnan(found) and math.isnan(value)):
            yield f"metric {name} at step {step} is {found!r} in MLflow but {value!r} in {_file(name)}"
        seen.add((name, step))


def gaps(logged: Logged, record: Record) -> Iterator[str]:
    """Name what a run lacks, and what can be set anew: its status and tags."""
    if logged.status != "FINISHED":
        yield f"the run is {logged.status}, not FINISHED"
    for name, value in {"alarms": "absent", **all_tags(record)}.items():
        found = logged.tags.get(name, "absent")
        if found != value:
            yield f"tag {name} is {found} in MLflow but {value} in {_file(name)}"
    for name in sorted(record.params.keys() - logged.params.keys()):
        yield f"param {name} is missing in MLflow but {record.params[name]} in {_config(name, record)}"
    for name, step in sorted(record.metrics.keys() - {(name, step) for name, step, _ in logged.points}):
        yield f"metric {name} has no point at step {step} in MLflow but {record.metrics[name, step]!r} in {_file(name)}"
    for name in sorted(record.artifacts.keys() - logged.files):
        yield f"artifact {name} is missing in MLflow"


def _file(name: str) -> str:
    """Name the file of the cell's folder that a metric or tag comes from."""
    return FILES.get(name.partition("/")[0], "the configs")


def _config(param: str, record: Record) -> str:
    """Name the file of settings that a param comes from."""
    name = f"{param.partition('.')[0]}.json"
    return name if name in record.artifacts else next(iter(record.artifacts), "the configs")


def _kept(value: float) -> float:
    """Return the number that MLflow keeps: the largest one in place of infinity."""
    return max(-sys.float_info.max, min(value, sys.float_info.max))
