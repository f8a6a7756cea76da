"""Facts that the MLflow run of a cell must hold, and the differences of a run from them."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.tracking.description import DESCRIPTION
from pipeline.tracking.record import DIAGNOSIS, SETTINGS, Record

# The file of a cell's folder that holds the metrics <key>/<name>, or the tag <key>.
FILES = {
    "train": "pretrain/history.csv",
    "watch": "pretrain/history.csv",
    "system": "pretrain/provenance.json",
    "pretrain": "pretrain/metrics.json",
    "alarm": "pretrain/metrics.json",
    "probe": "probe/metrics.json",
    "unlabelled": "probe/health.json",
    "alarms": "pretrain/metrics.json",
    DESCRIPTION: "probe/metrics.json",
    "commit": "pretrain/provenance.json",
    "mlflow.source.git.commit": "pretrain/provenance.json",
    "mlflow.source.git.branch": "pretrain/provenance.json",
}


class Fact(NamedTuple):
    """One thing that a run holds; kind is status, tag, param, metric, input or artifact, step that of a metric."""

    kind: str
    name: str
    step: int = 0


class Difference(NamedTuple):
    """A fact whose value in MLflow is not the one of the files, in words; "" stands for none."""

    fact: Fact
    found: str
    wanted: str
    file: str

    @property
    def mendable(self) -> bool:
        """Whether the run can be made right: MLflow changes no param and takes back no point and no input."""
        return not self.found or self.fact.kind not in ("param", "metric", "input")

    def __str__(self) -> str:
        """Name the fact, both values, and the file that holds the right one."""
        kind, name, step = self.fact
        if kind == "artifact":
            return f"artifact {name} {'is another' if self.found else 'is missing'} in MLflow"
        at = f" at step {step}" if kind == "metric" else ""
        return f"{kind} {name}{at} is {self.found or 'absent'} in MLflow but {self.wanted or 'absent'} in {self.file}"


WRITTEN = Fact("tag", DESCRIPTION)


def facts(record: Record, status: str) -> dict[Fact, str]:
    """Return what the run of a record holds."""
    return {
        Fact("status", "of the run"): status,
        **{Fact("tag", name): value for name, value in record.tags.items()},
        **{Fact("param", name): value for name, value in record.params.items()},
        **{Fact("metric", name, step): _number(_kept(value)) for (name, step), value in record.metrics.items()},
        **{Fact("input", data.name): data.digest for data in record.inputs},
        **{Fact("artifact", name): "kept" for name in record.artifacts},
    }


def point_facts(points: Iterable[tuple[str, int, float]]) -> dict[Fact, str]:
    """Return the facts of points (name, step, value); one that was logged twice has both values."""
    values = defaultdict[Fact, list[str]](list)
    for name, step, value in points:
        values[Fact("metric", name, step)].append(_number(value))
    return {fact: ", ".join(found) for fact, found in values.items()}


def _number(value: float) -> str:
    """Write a number; a zero has no sign, which a database may drop."""
    return repr(value + 0.0)


def differences(found: dict[Fact, str], wanted: dict[Fact, str], record: Record) -> list[Difference]:
    """Name every fact of a run that is not as wanted.

    Left alone are tags, inputs and artifacts beyond the wanted ones, a description written by a user, and the load of
    epochs before a training was resumed.
    """
    asked = wanted.keys() | {fact for fact in found if fact.kind == "param" or _is_ours(fact)}
    pairs = {fact: (found.get(fact, ""), wanted.get(fact, "")) for fact in sorted(asked)}
    if pairs.get(WRITTEN, ("", ""))[0]:
        del pairs[WRITTEN]
    return [Difference(fact, *pair, _file(fact, record)) for fact, pair in pairs.items() if pair[0] != pair[1]]


def _is_ours(fact: Fact) -> bool:
    return fact.kind == "metric" and not fact.name.startswith("system/")


def _file(fact: Fact, record: Record) -> str:
    """Name the file of the cell's folder that a fact comes from."""
    settings = next(iter(record.artifacts), "the configs")
    if fact.name == "picked_by":
        return f"{DIAGNOSIS / record.grid}/picks"
    if fact.kind == "input":
        return f"data/{fact.name}/meta.json"
    if fact.kind in ("param", "artifact"):
        named = f"{fact.name.removeprefix(SETTINGS).partition('.')[0]}.json"
        return named if named in record.artifacts else settings
    return "a finished cell" if fact.kind == "status" else FILES.get(fact.name.partition("/")[0], settings)


def _kept(value: float) -> float:
    """Return the number that MLflow keeps: the largest one in place of infinity."""
    return value if math.isnan(value) else max(-sys.float_info.max, min(value, sys.float_info.max))
