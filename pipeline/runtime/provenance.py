"""Origin of a result: commit and branch, library versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "dvc", "mlflow")


def commit() -> str:
    """Return the git commit of the working directory, with `-dirty` after it if tracked code differs from it."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/pipeline", ":/stages", ":/params.yaml")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def branch() -> str:
    """Return the git branch of the working directory; "" outside git, and in an experiment of DVC, which is on none."""
    try:
        return _git("branch", "--show-current")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def describe(device: str, num_processes: int = 1, **computed: Any) -> dict[str, Any]:
    """Return commit, branch, versions and hardware, to be stored beside the weights.

    Args:
        device: as torch has it.
        num_processes: that shared the work.
        computed: what else is to be known of the device, `devices.found`.
    """
    return {
        "commit": commit(),
        "branch": branch(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "hardware": {"device": device, **computed, "cpu": cpu_name(), "num_cpus": os.cpu_count()},
        "num_processes": num_processes,
    }


def cpu_name() -> str:
    """Return the processor as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
