"""Whether the files on disk are the ones that dvc.lock vouches for.

`dvc status` says so too, but waits for the lock of a `dvc repro` that runs, and tells of code as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from pipeline.runtime.errors import ResultError

# Inputs of a stage that are made by other stages of the pipeline.
MADE = ("runs/", "models/")


def lock_check(lock: Path, command: str) -> Callable[[Iterable[Path]], Iterator[str]]:
    """Read a dvc.lock file; return what names the outputs, among files, that are not what it recorded.

    Named are outputs that changed, and such whose stage read a result that is another now, each result once.

    Args:
        lock: its path; nothing is vouched for where there is none.
        command: what makes the files.

    Raises:
        ResultError: the file is broken.
    """
    digest, told, remedy = cache(md5), set[str](), f"make it again with: {command}"
    stages = _stages(lock) if lock.exists() else {}

    def check(outputs: Iterable[Path]) -> Iterator[str]:
        for path in map(str, outputs):
            if path not in stages:
                yield f"{path} is not in {lock}; run: {command}"
                continue
            outs, deps = stages[path]
            if (found := digest(path)) != outs[path]:
                recorded = f"but {lock} recorded {outs[path]}"
                yield f"{path} {_shown(found)}, {recorded}; restore it with: dvc checkout --force {path}, or {remedy}"
            for dep, recorded in deps.items():
                if dep.startswith(MADE) and dep not in told and digest(dep) != recorded:
                    told.add(dep)
                    yield f"{path} was made from {dep} with md5 {recorded}, which {_shown(digest(dep))} now; {remedy}"

    return check


def _shown(digest: str) -> str:
    return f"has md5 {digest}" if digest else "is missing"


def _stages(lock: Path) -> dict[str, list[dict[str, str]]]:
    """Return {path of an output: {path: md5} of what its stage wrote and of what it read}."""
    try:
        # The parser in C is ten times faster.
        loaded = yaml.load(lock.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        files = [[stage.get(kind, []) for kind in ("outs", "deps")] for stage in loaded["stages"].values()]
        stages = [[{file["path"]: file.get("md5", "") for file in kind} for kind in both] for both in files]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ResultError(f"{lock} is broken ({said}); get it back with: git checkout {lock}") from None
    return {path: stage for stage in stages for path in stage[0]}


def md5(path: str) -> str:
    """Return the MD5 of a file as DVC records it, "" where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return ""
