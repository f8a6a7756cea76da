"""Place of the runs: mlflow.db in the clone with its artifacts beside it, or what MLFLOW_TRACKING_URI names.

A store that is a file may be moved or copied with its clone, and may lie on a disk without locks or write-ahead log.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.project import clone
from pipeline.tracking.trouble import StoreError, shown

STORE, ARTIFACTS, NAME = "mlflow.db", "mlruns", ".dvc/tmp/clone.json"
# Several processes that open a new store wait for the one that makes it: a second or two, longer where many trainings
# share the cores. A process that ends frees the lock, so only one that is stopped makes others wait this long.
OPENING_S = 120.0
TOLD_AFTER_S = 5.0
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def clone_store() -> Path:
    """Return the file of the clone's own store."""
    return clone() / STORE


def clone_name() -> str:
    """Return the name by which runs of this clone are told from those of others in one store: folder and random digits.

    It is kept in the clone, for its programs on all machines of a cluster. A clone that is moved keeps its name, a copy
    gets another one.
    """
    here, file = str(clone()), clone() / NAME
    for _ in range(3):
        told = read_json(file) if file.exists() else {}
        if told.get("path") == here:
            return told["name"]
        moved = told and not Path(told["path"], NAME).exists()
        name = told["name"] if moved else f"{clone().name}-{uuid.uuid4().hex[:8]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        write_json(own, {"name": name, "path": here})
        if told:
            own.replace(file)
        else:  # of several programs the first one gives the name
            with suppress(FileExistsError):
                os.link(own, file)
            own.unlink()
    raise StoreError(f"{file} changes while it is read; run it again")


def experiment_name() -> str:
    """Return the MLflow experiment that holds the runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lejepa-benchmark"


def place(asked: str | Path | None = None) -> str | Path:
    """Return the file of an SQLite store, or the address of any other.

    Args:
        asked: a file or an address; None takes MLFLOW_TRACKING_URI, and without that the clone's own store.

    Raises:
        StoreError: MLflow keeps no runs there.
    """
    asked = asked or os.environ.get("MLFLOW_TRACKING_URI", "").strip() or clone_store()
    if isinstance(asked, Path):
        return asked.absolute()
    scheme, _, rest = asked.partition(":")
    if scheme == "sqlite" and (file := rest.removeprefix("///")) not in (rest, "", ":memory:"):
        return clone() / unquote(file)
    if (not rest and asked != "databricks") or scheme in ("file", "sqlite"):
        raise StoreError(
            f"MLFLOW_TRACKING_URI is {asked!r}, where MLflow keeps no runs; set it to the address of a server "
            "(http://HOST:PORT) or of a database (sqlite:///FILE), or unset it to use the clone's mlflow.db"
        )
    return asked


def pages(configured: str) -> str:
    """Return where MLflow shows the runs: the server that MLFLOW_TRACKING_URI names, else `report.mlflow_url`."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return shown(named) if named.startswith(("http:", "https:")) else configured


def address(file: str | Path) -> str:
    """Return the address of a store that is a file; what is an address already stays.

    SQLAlchemy 2.1 decodes a %, 2.0 does not, and a ? begins a query: where there are any the path from here is given.
    """
    if isinstance(file, str):
        return file
    return f"sqlite:///{os.path.relpath(file) if {'%', '?'} & {*str(file)} else file}"


def artifacts(file: Path) -> str:
    """Return the folder of artifacts beside a store as MLflow takes it: encoded where it would be misread."""
    folder = file.with_name(ARTIFACTS)
    return str(folder) if folder.as_uri() == f"file://{folder}" else folder.as_uri()


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Keep other processes from opening the store; give up on one that hangs, go on where the disk has no locks."""
    with Path(f"{file}.lock").open("w", encoding="utf-8") as lock:
        begun, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - begun
                if waited > TOLD_AFTER_S and not told:
                    told = True
                    _say(f"waits for another process that opens {file}, for up to {OPENING_S:.0f} s")
                if waited > OPENING_S:
                    message = f"locked for {OPENING_S:.0f} s by another process that opens the store"
                    raise TimeoutError(0, message, lock.name) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                _say(f"{lock.name}: this disk has no file locks ({error.strerror}); run one stage at a time here")
                break
        yield


def prepare(connection: sqlite3.Connection, file: Path) -> None:
    """Make an existing store ready for this clone: a write-ahead log if the disk can, artifacts beside it.

    Raises:
        sqlite3.Error: at once for what is no database; MLflow would try again for two minutes.
    """
    _prefer_log(connection, file)
    _bring_home(connection, file)


def _prefer_log(connection: sqlite3.Connection, file: Path) -> None:
    """Let `mlflow ui` read while stages write."""
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    except sqlite3.OperationalError as error:
        connection.execute("BEGIN IMMEDIATE")  # fails as well where it is not the log that is refused
        connection.rollback()
        mode = error
    if mode != "wal":
        _say(f"{file}: this disk refuses a write-ahead log ({mode}); tracking goes on without it")


def _bring_home(connection: sqlite3.Connection, file: Path) -> None:
    """Look for artifacts beside the store, wherever it was made: MLflow keeps absolute addresses.

    Only addresses of a folder `mlruns` are changed; another one was somebody's choice.
    """
    home = artifacts(file)
    query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
    for identity, there in connection.execute(query, (experiment_name(),)).fetchall():
        if there == home or not there.startswith(("/", "file:")) or not there.endswith(f"/{ARTIFACTS}"):
            continue
        with connection:
            connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (home, identity))
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (home, len(there) + 1, identity, len(there) + 1, f"{there}/"),
            )
        before = url2pathname(urlsplit(there).path) if there.startswith("file:") else there
        if before != str(file.with_name(ARTIFACTS)):
            _say(f"{file}: the runs' artifacts were in {before} and are now read from the folder beside the file")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
