"""MLflow: one run a cell, found by its tags, continued and never doubled. Importing this takes MLflow's seconds.

The store is `sqlite:///mlflow.db` in the repository root, so a plain `mlflow ui` there shows everything; or the server
or database that MLFLOW_TRACKING_URI names.
"""

from __future__ import annotations

import getpass
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

from pipeline.runtime.project import tracked_grid
from pipeline.tracking import saved_view
from pipeline.tracking.diff import differences, facts
from pipeline.tracking.place import address, alone, artifacts, clone_name, clone_store, experiment_name, place, prepare
from pipeline.tracking.record import Record
from pipeline.tracking.trouble import StoreError, explain

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# A server that is away must not hold up training: MLflow would try for minutes, and `sync` can write all of it later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.tracking.contents import held, log_points, mend, points

# Creating the store is announced in dozens of lines otherwise, and its trouble with a traceback beside our message.
QUIET = {"mlflow": "WARNING", "alembic": "WARNING", "mlflow.store.db.utils": "CRITICAL", "urllib3": "ERROR"}
for name, level in QUIET.items():
    logging.getLogger(name).setLevel(level)


def _explained(method: Callable) -> Callable:
    """Let a method of the store raise StoreError for whatever ails the store."""

    @wraps(method)
    def call(self: Store, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (OSError, MlflowException, SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(explain(self.place, error)) from error

    return call


class Store:
    """The tracking store; opening it creates it, once, however many processes ask at the same time."""

    def __init__(self, where: str | Path | None = None) -> None:
        """Open or create.

        Args:
            where: a file or an address, as `place.place` takes them.

        Raises:
            StoreError: it cannot be used; at once, or two minutes later if another process holds it.
        """
        self.place = place(where)
        try:
            if isinstance(self.place, Path):
                with alone(self.place):  # no longer than it must be: MLflow takes seconds to open what is there
                    _make_ready(self.place)
                self._open(address(self.place), artifacts(self.place))
            else:
                self._open(self.place, None if self.place.startswith("http") else artifacts(clone_store()))
            # Others' clones may have cells of the same names on a server or in a database, and other results.
            self._clone = "" if isinstance(self.place, Path) else clone_name()
        except (OSError, ImportError, MlflowException, SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(explain(self.place, error)) from error

    def _open(self, uri: str, artifacts: str | None) -> None:
        """Find or make the experiment; None lets a server choose the place of its artifacts."""
        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name(experiment_name())
        if experiment and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment_id = experiment.experiment_id if experiment else self._new_experiment(artifacts)

    def _new_experiment(self, artifacts: str | None) -> str:
        try:
            return self.client.create_experiment(experiment_name(), artifacts, saved_view.tags())
        except MlflowException:
            if (experiment := self.client.get_experiment_by_name(experiment_name())) is None:
                raise
            return experiment.experiment_id  # another process was first

    @_explained
    def save_view(self) -> str:
        """Bring the view of the runs to that of this version, and return the version of MLflow whose pages show it.

        It is that of a server, or the one installed here; "" where a server does not tell.
        """
        version = mlflow.__version__
        if isinstance(self.place, str) and self.place.startswith("http"):
            answer = requests.get(f"{self.place.rstrip('/')}/version", timeout=10)
            version = answer.text.strip() if answer.ok else ""
        told = self.client.get_experiment(self.experiment_id).tags
        for name, value in saved_view.tags().items():
            if saved_view.is_seen(version) and told.get(name) != value:
                self.client.set_experiment_tag(self.experiment_id, name, value)
        return version

    def _search(self, query: str) -> list[Run]:
        mine = f" and tags.clone = '{self._clone}'" if self._clone else ""
        return list(self.client.search_runs([self.experiment_id], f"{query}{mine}", max_results=50_000))

    @_explained
    def runs(self, grid: str, cell: str) -> list[Run]:
        """Return the active runs of a cell of this clone, newest first."""
        return self._search(f"tags.cell = '{cell}' and tags.grid = '{tracked_grid(grid)}'")

    @_explained
    def finished_runs(self, grid: str) -> dict[str, str]:
        """Return {cell: id of its newest FINISHED run} of one grid."""
        runs = self._search(f"tags.grid = '{tracked_grid(grid)}' and attributes.status = 'FINISHED'")
        return {run.data.tags.get("cell", ""): run.info.run_id for run in reversed(runs)}

    @_explained
    def disagreements(self, record: Record) -> list[str]:
        """Name everything in which MLflow is not what a finished record says: `publish` mends all of it."""
        runs = self.runs(record.grid, record.cell)
        if len(runs) != 1:
            return [f"{len(runs)} MLflow runs instead of one"]
        return list(map(str, differences(held(self.client, runs[0], record), facts(record, "FINISHED"), record)))

    @_explained
    def publish(self, record: Record) -> str:
        """Bring the cell's run to exactly what a finished record says; return its id.

        Of several runs a finished one is kept. A run that holds other values is replaced, since MLflow can neither
        change a param nor take back a point.
        """
        wanted, runs = facts(record, "FINISHED"), self.runs(record.grid, record.cell)
        finished_first = sorted(runs, key=lambda run: run.info.status != "FINISHED")
        kept = (
            run
            for run in finished_first
            if all(difference.mendable for difference in differences(held(self.client, run, record), wanted, record))
        )
        return self._keep(record, runs, next(kept, None), "FINISHED")

    @_explained
    def open_run(self, record: Record, *, afresh: bool) -> str:
        """Continue the cell's newest run or start one; return its id.

        A run that is finished, or has other params, is never continued: it is of an earlier training, since one that
        was interrupted in its first epoch has left its state and no run.

        Args:
            record: identity, params and artifacts of the run; `work_s` ago it began.
            afresh: retire what was logged before; the old run stays under "deleted" in the UI.
        """
        runs = self.runs(record.grid, record.cell)
        goes_on = not afresh and runs and runs[0].info.status != "FINISHED"
        same = goes_on and all(runs[0].data.params.get(name, value) == value for name, value in record.params.items())
        return self._keep(record, runs, runs[0] if same else None, "RUNNING")

    def _keep(self, record: Record, runs: list[Run], kept: Run | None, status: str) -> str:
        """Make one run of a cell's runs, the kept one or a new one, and write what it lacks."""
        run = kept
        if run is None:
            begun = int((time.time() - record.work_s) * 1000)
            identity = {name: record.tags[name] for name in ("cell", "grid")} | {"mlflow.user": getpass.getuser()}
            identity |= {"clone": self._clone} if self._clone else {}
            run = self.client.create_run(self.experiment_id, begun, identity, record.cell)
        for other in runs:
            if other is not kept:
                self.client.delete_run(other.info.run_id)
        mend(self.client, run, record, status)
        return run.info.run_id

    @_explained
    def logged(self, run_id: str) -> set[tuple[str, int]]:
        """Return (name, step) of the points that a run has."""
        return {(point.key, point.step) for point in points(self.client, self.client.get_run(run_id))}

    @_explained
    def log_points(self, run_id: str, points: Mapping[tuple[str, int], float]) -> None:
        """Log points {(name, step): value} that the run does not have."""
        log_points(self.client, run_id, points)

    @_explained
    def tag(self, run_id: str, name: str, value: str) -> None:
        """Give a run a tag."""
        self.client.set_tag(run_id, name, value)

    @_explained
    def end(self, run_id: str, status: str) -> None:
        """End a run that is not finished: FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    @_explained
    def tag_picks(self, grid: str, picks: Mapping[str, str]) -> list[str]:
        """Give picked runs the tag `picked_by`, and take it from the grid's other runs; again, it changes nothing.

        Args:
            grid: its name.
            picks: {cell: what picked it}.

        Returns:
            Picked cells that have no run; `python -m stages.sync` writes it.
        """
        runs = self._search(f"tags.grid = '{tracked_grid(grid)}'")
        for run in runs:
            wanted = picks.get(run.data.tags.get("cell", ""), "")
            if wanted and run.data.tags.get("picked_by") != wanted:
                self.client.set_tag(run.info.run_id, "picked_by", wanted)
            elif not wanted and "picked_by" in run.data.tags:
                self.client.delete_tag(run.info.run_id, "picked_by")
        return sorted(picks.keys() - {run.data.tags.get("cell") for run in runs})

    @_explained
    def attach(self, grid: str, cell: str, files: Iterable[Path], folder: str) -> bool:
        """Put files in a folder of the artifacts of a cell's run, in place of those of the same name.

        Returns:
            Whether the cell has a run.
        """
        runs = self.runs(grid, cell)[:1]
        for run in runs:
            for file in files:
                self.client.log_artifact(run.info.run_id, str(file), folder)
        return bool(runs)


def _make_ready(path: Path) -> None:
    """Create the store if there is none; let it fit this clone and disk."""
    if not path.exists():
        _create(path)
    with closing(sqlite3.connect(path)) as connection:
        prepare(connection, path)


def _create(path: Path) -> None:
    """Make the store under another name: a process that is killed meanwhile leaves none that is half made."""
    unborn = path.with_name(f"{path.name}.new")
    # SQLite would take the journal of a store that was deleted for one of the new store and break it.
    for file in (path, unborn):
        for journal in ("", "-wal", "-shm", "-journal"):
            Path(f"{file}{journal}").unlink(missing_ok=True)
    MlflowClient(tracking_uri=address(unborn)).create_experiment(experiment_name(), artifacts(path), saved_view.tags())
    os.replace(unborn, path)
