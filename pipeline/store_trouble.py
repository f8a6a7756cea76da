"""What ails the tracking store, in one line with its remedy; and the lock under which it is opened."""

from __future__ import annotations

import fcntl
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

# Several processes that open a new store wait for the one that makes it, which takes a second or two.
OPENING_S = 30.0
# What SQLite, MLflow or the system says: what to do about it.
REMEDIES = {
    "locked": "let the process that holds it end, or end it",
    "readonly": "make it and its folder writable",
    "read-only": "make it and its folder writable",
    "denied": "make it and its folder writable",
    "unable to open": "it must be a file, in a folder that exists and is writable",
    "no such file": "it must be a file, in a folder that exists and is writable",
    "is full": "free some space",
    "no space": "free some space",
    "i/o error": "look whether the disk is full or broken",
    "database schema": "back it up and run: mlflow db upgrade sqlite:///mlflow.db",
}
REMAKE = "move it away: `python -m stages.sync` writes a new one from the results on disk"


class StoreError(UserError):
    """The tracking store cannot be used; the message says why and what to do."""


def explain(path: Path, error: BaseException) -> str:
    """Say in one line what ails a store and what to do about it, in the words of SQLite or the system."""
    cause = error
    while cause and not isinstance(cause, sqlite3.Error | OSError):
        cause = cause.__cause__ or cause.__context__
    cause = cause or error
    said = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in said.lower()), REMAKE)
    return f"{getattr(cause, 'filename', None) or path} cannot be used: {said}; {remedy}"


def warn_untracked(cell: str, path: Path, error: Exception) -> None:
    """Warn that a cell is not tracked, and say how to mend it."""
    reason = error if isinstance(error, StoreError) else explain(path, error)
    warnings.warn(
        f"MLflow tracking stopped for {cell}: {reason}; the results are safe on disk, "
        "`python -m stages.sync` writes them to MLflow later",
        stacklevel=3,
    )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from opening the store; give up on one that hangs."""
    with Path(f"{path}.lock").open("w") as lock:
        deadline = time.monotonic() + OPENING_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"locked for {OPENING_S:.0f} s by another process that opens the store"
                    raise TimeoutError(0, message, lock.name) from None
                time.sleep(0.05)
        yield
