"""What `make repro` ends with; without pandas, whose import would take longer than all else it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BASELINES = {"random_init_linear_top1": "random init", "raw_pixels_linear_top1": "raw pixels"}


def closing_lines(sets: Mapping[str, Mapping[str, Any]], page: Path) -> Iterator[str]:
    """Say in three lines what each data set reaches, where all results are, and how to see the runs.

    Args:
        sets: of reports/metrics.json, as `tables.headline` makes it.
        page: index.html.
    """
    best = []
    for name, row in sets.items():
        beside = [f"{BASELINES[score]} {100 * row[score]:.1f}" for score in BASELINES if score in row]
        reached = ", ".join([f"{name} {100 * row['linear_top1']:.1f}", *beside])
        best.append(f"{reached} ({row['backbone']}, lambda {row['lambda']:g})")
    yield f"Best linear top-1, percent: {'; '.join(best) or 'no run has a number'}"
    yield f"All results: {page.resolve().as_uri()}"
    yield "All runs in MLflow: make ui"
