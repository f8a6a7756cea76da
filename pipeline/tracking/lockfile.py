"""Comparison of the files on disk with the checksums in dvc.lock.

`dvc status` says so too, but waits for the lock of a `dvc repro` that runs, and tells of code as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from pipeline.runtime.errors import ResultError

# Inputs of a stage that are made by other stages of the pipeline.
MADE = ("runs/", "models/")
CACHE = Path(".dvc/cache/files/md5")


def lock_check(lock: Path, command: str) -> Callable[[Iterable[Path]], Iterator[str]]:
    """Read a dvc.lock file; return what names the outputs, files or folders, that are not what it recorded.

    Named are outputs that changed (of a folder the files, where DVC's cache lists it), and such whose stage read a
    result that is another now, each result once.

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
            for file, found, recorded in _changes(path, outs[path]):
                told_of = f"{file} {_shown(found)}, but {lock} recorded {recorded or 'none'}"
                yield f"{told_of}; restore it with: dvc checkout --force {path}, or {remedy}"
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


def _changes(path: str, recorded: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, MD5 and recorded MD5 of an output that is another now, or of the files of such a folder."""
    if (found := md5(path)) == recorded:
        return
    listing = CACHE / recorded[:2] / recorded[2:]
    if not (recorded.endswith(".dir") and found and listing.is_file()):
        yield path, found, recorded
        return
    before = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    now = {entry["relpath"]: entry["md5"] for entry in _listing(Path(path))}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{path}/{name}", now.get(name, ""), before.get(name, "")


def _listing(folder: Path) -> list[dict[str, str]]:
    """Return what DVC records of the files of a folder."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return [{"md5": md5(str(path)), "relpath": name} for name, path in files]


def md5(path: str) -> str:
    """Return the MD5 of a file or folder as DVC records it, "" where there is none."""
    if (folder := Path(path)).is_dir():
        text = json.dumps(_listing(folder))
        return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return ""
