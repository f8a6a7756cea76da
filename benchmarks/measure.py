"""What the benchmarks share: timing in turn, and the head of a report."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

from benchmarks.sigreg_table import hardware

REPORTS = Path(__file__).parents[1] / "reports" / "benchmarks"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, until the device has finished."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(methods: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of every method; they take turns, so that a busy machine slows all alike. Turn 0 warms up."""
    took: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, method in methods.items():
            elapsed = seconds(method)
            if turn:
                took[name].append(elapsed)
    return {name: median(times) for name, times in took.items()}


def write_report(
    name: str,
    title: str,
    notes: list[str],
    tables: list[tuple[list[str], list[list[str]]]],
    *,
    packages: tuple[str, ...],
    threads: int,
    device: str,
) -> Path:
    """Write reports/benchmarks/<name>.md, or <name>_cuda.md, with all that is needed to read and repeat it.

    `tables` are pairs of column titles and rows.
    """
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    lines = [
        f"# {title}",
        "",
        f"- Date: {datetime.date.today().isoformat()}",
        f"- Hardware: {hardware(device, threads)}",
        f"- Versions: Python {sys.version.split()[0]}, {versions}",
        f"- Command: `{' '.join(['python -m benchmarks.' + name, *sys.argv[1:]])}`",
        *(f"- {note}" for note in notes),
    ]
    for columns, rows in tables:
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))]
    path = REPORTS / f"{name}{'_cuda' if device == 'cuda' else ''}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
