"""Whether the files on disk are the ones that dvc.lock vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline.core.results import ResultError

# Inputs of a stage that are made by other stages of the pipeline; `dvc status` tells about code and data.
MADE = ("runs/", "models/")


class Stage(NamedTuple):
    """What dvc.lock recorded when a stage ran: {path: md5} of what it read and of what it wrote."""

    deps: dict[str, str]
    outs: dict[str, str]


def locked_stages(lock: Path) -> dict[str, Stage]:
    """Return {path of an output: its stage} of a dvc.lock file; empty where there is none.

    Raises:
        ResultError: the file is broken.
    """
    if not lock.exists():
        return {}
    try:
        # The parser in C is ten times faster.
        loaded = yaml.load(lock.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        files = [[stage.get(kind, []) for kind in Stage._fields] for stage in loaded["stages"].values()]
        stages = [Stage(*({file["path"]: file.get("md5", "") for file in kind} for kind in two)) for two in files]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ResultError(f"{lock} is broken ({said}); get it back with: git checkout {lock}") from None
    return {path: stage for stage in stages for path in stage.outs}


def unlocked(outputs: Iterable[Path], locked: dict[str, Stage], lock: Path, command: str) -> Iterator[str]:
    """Name every output that is not what its stage wrote, and every result that its stage read and that is another now.

    Args:
        outputs: files.
        locked: of `locked_stages`.
        lock: its path.
        command: what makes the files.
    """
    again, seen, digest = f"make it again with: {command}", set(), cache(md5)
    for path in map(str, outputs):
        if path not in locked:
            yield f"{path} is not in {lock}; run: {command}"
            continue
        stage, remedy = locked[path], f"restore it with: dvc checkout --force {path}, or {again}"
        found = digest(path)
        if found != stage.outs[path]:
            has = f"has md5 {found}" if found else "is missing"
            yield f"{path} {has}, but {lock} recorded {stage.outs[path]}; {remedy}"
        read = {dep: recorded for dep, recorded in stage.deps.items() if dep.startswith(MADE)}
        for dep, recorded in read.items():
            if (dep, recorded) not in seen and digest(dep) != recorded:
                now = f"has {digest(dep)}" if digest(dep) else "is missing"
                yield f"{path} was made from {dep} with md5 {recorded}, which {now} now; {again}"
            seen.add((dep, recorded))


def md5(path: str) -> str:
    """Return the MD5 of a file as DVC records it, "" where there is none."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()
