"""Stores for the tests of tracking: copies of an empty one, since creating one takes MLflow a second or two."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from cell_record import OPENING

from pipeline.tracking.store import Store


@cache
def empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the artifacts will be
        path = Path(folder) / "mlflow.db"
        Store(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


def new_store(folder: Path) -> Path:
    """Return the path of a new store; absolute, since MLflow keeps one engine for each address as it is written."""
    (folder / "mlflow.db").write_bytes(empty_store())
    return folder / "mlflow.db"


def the_run(store: Store):
    (run,) = store.runs(OPENING.grid, OPENING.cell)
    return run
