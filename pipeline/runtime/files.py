"""Files that are whole or absent, also on disks that lack some of the usual operations."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.runtime.bars import bar
from pipeline.runtime.errors import ResultError

# What file systems answer that lack an operation: exFAT, SMB, FUSE and network mounts have no hard links, no modes, no
# fsync of a folder.
_LACKING = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EISDIR}


@contextmanager
def where_possible(*further: int):
    """Go on where the file system lacks the operation, or answers with one of `further` error numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING | set(further):
            raise


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file through a temporary one in the same folder: fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            sync(file.fileno())
        with where_possible():
            os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync(handle: int) -> None:
    """Bring a file to the disk, where the file system knows how."""
    with where_possible():
        os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a loss of power, where the file system knows how."""
    with where_possible():
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where there are no hard links, or on another disk, copy it."""
    with where_possible(errno.EXDEV, errno.EMLINK):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    return digest_file(path, "sha256")


def digest_file(path: Path, algorithm: str) -> str:
    """Return a checksum of a file as hex digits; a bar appears where it takes more than a second."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file, bar(f"checking {path.name}", path.stat().st_size, unit="B", delay_s=1) as told:
        while block := file.read(1 << 20):
            digest.update(block)
            told.update(len(block))
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `json_text` spells it."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return JSON, indented, ending in a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ResultError: if it is missing or broken.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"no {path}; make it with: dvc repro") from None
    except ValueError as error:
        raise ResultError(f"{path} is broken ({error}); remove it and run: dvc repro") from None
    if not isinstance(value, dict):
        raise ResultError(f"{path} must hold a JSON object, got {type(value).__name__}; remove it and run: dvc repro")
    return value
