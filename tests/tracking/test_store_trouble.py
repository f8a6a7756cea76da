"""Claims about a tracking store that many use at once, or that cannot be used:

1. Six processes may open a new store at the same moment; it is in WAL mode. Opening it again changes nothing, and an
   experiment that was deleted in the UI is back.
2. A broken store, a read-only disk, a locked database and a process that hangs while it opens the store are each one
   warning, which ends with the remedy, within half a minute at most; training goes on.
3. What was missed is written by sync. sync, verify and compare say in one line what is wrong and what to do.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import OPENING, ROWS, finished
from params_file import written
from stores import empty_store, new_store, the_run

from pipeline.tracking import place
from pipeline.tracking.live_run import LiveRun, publish_or_warn
from pipeline.tracking.store import Store
from pipeline.tracking.trouble import StoreError
from stages import compare, run, sync, verify

pytestmark = pytest.mark.seconds
REMEDY = r"; the results are safe on disk, `python -m stages.sync` writes them to MLflow later$"


@pytest.fixture
def path(tmp_path) -> Path:
    return new_store(tmp_path)


def train(path: Path) -> float:
    """Track a training and its probe, and return the seconds that it took; trouble must be one warning each."""
    begun = time.monotonic()
    with (
        pytest.warns(UserWarning, match="(?s)^MLflow tracking stopped for digits--vit.*" + REMEDY) as caught,
        LiveRun(OPENING, afresh=True, where=path) as live,
    ):
        for row in ROWS:
            live.log_epoch(row)
        live.log_alerts({"collapse": 1})
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    return time.monotonic() - begun


# 1. Many processes


@pytest.mark.slow
# Forked, since six imports of MLflow take 30 s; Python 3.12 warns of threads in the parent, none of which is used.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_may_open_a_new_store_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processes = multiprocessing.get_context("fork")
    path, together = tmp_path / "mlflow.db", processes.Barrier(6)

    def open_and_publish(cell: str) -> None:
        together.wait(timeout=30)
        Store(path).publish(replace(finished(), cell=cell))

    started = [processes.Process(target=open_and_publish, args=(f"cell{i}",)) for i in range(6)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=60)
    assert [process.exitcode for process in started] == [0] * 6
    store = Store(path)
    for i in range(6):
        assert store.disagreements(replace(finished(), cell=f"cell{i}")) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_again_changes_nothing(path):
    store = Store(path)
    assert Store(path).experiment_id == store.experiment_id
    assert len(store.client.search_experiments()) == 2  # MLflow's own "Default" beside ours
    store.client.delete_experiment(store.experiment_id)
    assert Store(path).publish(finished()) == the_run(store).info.run_id


# 2. Stores that cannot be used


def broken(kind: str, path: Path) -> Path:
    if kind == "directory":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"this is no database " * 100)
    elif kind == "damaged":
        whole = empty_store()
        path.write_bytes(whole[:4096] + b"x" * (len(whole) - 4096))
    else:
        path = path.parent / "nowhere" / path.name
    return path


@pytest.mark.parametrize("kind", ["directory", "garbage", "damaged", "no folder"])
def test_a_broken_store_is_one_warning_at_once(tmp_path, kind):
    path = broken(kind, tmp_path / "mlflow.db")
    assert train(path) < 5
    with pytest.warns(UserWarning, match=f"{path}[a-z.]* cannot be used: .*; .*{REMEDY}"):
        publish_or_warn(finished(), path)


@pytest.fixture
def mounted(tmp_path):
    """A disk of its own, as `disk(options)`; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> Path:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mount does not work here: {done.stderr.strip()}")
        return folder

    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def test_a_read_only_disk(mounted):
    path = new_store(mounted("-t", "tmpfs", "tmpfs"))
    mounted("-o", "remount,ro")
    assert train(path) < 5
    with pytest.raises(StoreError, match=r"cannot be used: Read-only file system; make it and its folder writable"):
        Store(path)
    mounted("-o", "remount,rw")
    Store(path).publish(finished())
    assert Store(path).disagreements(finished()) == []


def test_a_process_that_hangs_while_it_opens_the_store(path, monkeypatch):
    monkeypatch.setattr(place, "OPENING_S", 0.3)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert 0.3 <= train(path) < 5
        with pytest.raises(StoreError, match=r"lock cannot be used: locked .*; let the process that holds it end"):
            Store(path)
    Store(path).publish(finished())


@contextmanager
def locked(path: Path, *, readers_too: bool):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if readers_too:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.slow
@pytest.mark.parametrize("readers_too", [False, True])
def test_a_locked_database_costs_half_a_minute_once(path, capfd, readers_too):
    with locked(path, readers_too=readers_too):
        seconds = train(path)
        print(f"waited {seconds:.1f} s")
        assert seconds < 30
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err and "ERROR" not in shown.err
    publish_or_warn(finished(), path)
    assert Store(path).disagreements(finished()) == []


# 3. Stages


@pytest.mark.parametrize("stage", [sync, verify, compare])
def test_stages_say_what_to_do(tmp_path, monkeypatch, capsys, stage):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stage"])
    written(tmp_path / "params.yaml")
    broken("garbage", tmp_path / "mlflow.db")
    with pytest.raises(SystemExit) as ended:
        run(stage.main)
    told = capsys.readouterr().err + str(ended.value.code)
    assert (
        "mlflow.db cannot be used: file is not a database; move it away: `python -m stages.sync` writes a new" in told
    )
    assert ended.value.code != 0 and "Traceback" not in told
