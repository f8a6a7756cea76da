"""Whether the files on disk are the ones that dvc.lock vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml


def locked_outputs(lock: Path) -> dict[str, str]:
    """Return {path of an output: md5} of a dvc.lock file; empty where there is none."""
    if not lock.exists():
        return {}
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values()
    return {out["path"]: out.get("md5", "") for stage in stages for out in stage.get("outs", [])}


def unlocked(paths: Iterable[Path], locked: dict[str, str], lock: Path) -> Iterator[str]:
    """Name every file that is absent from the lock, missing on disk, or differs from its locked hash."""
    for path in paths:
        if str(path) not in locked:
            yield f"{path} is not in {lock}; run: dvc repro"
        elif not path.exists():
            yield f"{path} is missing; run: dvc repro"
        elif hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != locked[str(path)]:
            yield f"{path} differs from what {lock} recorded; run: dvc repro"
