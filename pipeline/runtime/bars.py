"""Progress bars, and the number of usable cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

DELAY_S = 5.0  # what is often done in less shows no bar before
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def bar(what: str, total: int | None, *, unit: str = "image", delay_s: float = 0.0, **options: Any) -> tqdm:
    """Return a bar on stderr; a log file gets a line at the beginning, every 10 s and at the end.

    Args:
        what: is being done, to which data set.
        total: number of units; None if unknown.
        unit: what is counted; "B" for bytes.
        delay_s: what takes less needs no bar, nor in a log file what takes less than 10 s.
        options: of tqdm.
    """
    quiet_s = 0.5 if sys.stderr.isatty() else 10.0
    scaled = {"unit_scale": True} if unit == "B" else {}
    return tqdm(desc=what, total=total, unit=unit, mininterval=quiet_s, delay=delay_s, **scaled, **options)


def num_cpus() -> int:
    """Return how many cores this process may use: its affinity and the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return allowed
