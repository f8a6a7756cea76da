"""Columns that describe a run: weight of the regulariser, work, site of the probe, commit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.reports.render import literal
from pipeline.runtime.files import read_json


def _every(values: pd.Series) -> str:
    return " ".join(dict.fromkeys(values.dropna()))


FACTS = {
    **{"w": "first", "num_samples": "first", "pooling": "first", "convention": "first", "images_seen": "first"},
    **{"train_s": "mean", "images_per_s": "mean", "peak_memory_mib": "max", "probe_site": "first", "commit": _every},
}
"""Columns by name, each with how the seeds of a row are put together. All numbers are of the last epoch.

w: lambda N / (1 - lambda), N is num_samples where the regulariser has the factor; pooling and convention: how it is
written. train_s: seconds of all steps. peak_memory_mib: of the GPU, or on a CPU of the process. Older runs lack them;
objectives without lambda have no w, pooling and convention.
"""
COSTS = {"s": "train_s", "images/s": "images_per_s", "MiB": "peak_memory_mib"}
"""What training took, by the head of its column in tables."""


def run_facts(pretrain: Path, config: Path, read: Callable[[Path], dict[str, Any]] = read_json) -> dict[str, Any]:
    """Return FACTS of a finished training and its probe.

    Args:
        pretrain: folder of the training.
        config: probe.json, the settings of the probe.
        read: of a JSON file.
    """
    paths = pretrain / "metrics.json", pretrain / "provenance.json", config
    summary, made, probed = (read(path) if path.exists() else {} for path in paths)
    train_s, images_seen = made.get("train_s"), summary.get("images_seen")
    rate = images_seen / train_s if train_s and images_seen else None
    found = summary | made | {"images_per_s": rate, "probe_site": probed.get("probe", {}).get("site")}
    return {name: math.nan if found.get(name) is None else found[name] for name in FACTS}


def together(rows: pd.DataFrame) -> dict[str, Any]:
    """Return FACTS of a row that is made of several trainings; nan where there are none."""
    if rows.empty:
        return dict.fromkeys(FACTS, math.nan)
    found: dict[str, Any] = rows.groupby(lambda _: 0)[list(FACTS)].agg(FACTS).iloc[0].to_dict()
    return found


def facts_line(rows: pd.DataFrame) -> str:
    """Say in a line what the runs of a table have in common, and the ranges of what differs; "" if nothing is known."""
    said = {
        "N": _texts(rows, "num_samples"),
        "pooling": _texts(rows, "pooling"),
        "loss": _texts(rows, "convention"),
        "images seen": _range(rows, "images_seen"),
        "seconds": _range(rows, "train_s"),
        "images/s": _range(rows, "images_per_s"),
        "peak MiB": _range(rows, "peak_memory_mib"),
        "probe at": _texts(rows, "probe_site"),
        "commit": _texts(rows, "commit"),
    }
    return literal("; ".join(f"{name}: {text}" for name, text in said.items() if text))


def _texts(rows: pd.DataFrame, name: str) -> str:
    values = rows[name].dropna().unique() if name in rows else []
    return ", ".join(_short(value) for value in values)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("-dirty", "+")[:60]


def _range(rows: pd.DataFrame, name: str) -> str:
    values = rows[name].dropna() if name in rows else pd.Series(dtype=float)
    ends = list(dict.fromkeys(f"{value:.0f}" for value in (values.min(), values.max()))) if len(values) else []
    return " to ".join(ends)
