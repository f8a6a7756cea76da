"""MLflow: one run a cell, found by its tags, continued and never doubled. Trouble here costs no training result.

The store is `sqlite:///mlflow.db` in the repository root, so a plain `mlflow ui` there shows everything.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

from pipeline.agreement import Logged, all_tags, contradictions, gaps
from pipeline.errors import NonFiniteLossError
from pipeline.results import Record, alarm_metrics, alarm_tag, epoch_metrics
from pipeline.store_trouble import StoreError, alone, explain, warn_untracked

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

STORE = Path("mlflow.db")
EXPERIMENT = "lejepa-benchmark"
# MLflow's limits for one log_batch call.
MAX_METRICS, MAX_PARAMS = 1000, 100
# Creating the store is announced in dozens of lines otherwise, and its trouble with a traceback beside our message.
for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("mlflow.store.db.utils", "CRITICAL")):
    logging.getLogger(name).setLevel(level)


def _explained(method: Callable) -> Callable:
    """Let a method of the store raise StoreError for whatever ails the store."""

    @wraps(method)
    def call(self: Store, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(explain(self.path, error)) from error

    return call


def _create(path: Path) -> None:
    """Make the store under another name: a process that is killed meanwhile leaves none that is half made."""
    unborn = path.with_name(f"{path.name}.new")
    # SQLite would take the journal of a store that was deleted for one of the new store and break it.
    for file in (path, unborn):
        for journal in ("", "-wal", "-shm", "-journal"):
            Path(f"{file}{journal}").unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{unborn}").create_experiment(EXPERIMENT, "mlruns")
    os.replace(unborn, path)


class Store:
    """The tracking store; opening it creates it, once, however many processes ask at the same time."""

    def __init__(self, path: Path = STORE) -> None:
        """Open or create.

        Raises:
            StoreError: it cannot be used; at once, or half a minute later if another process holds it.
        """
        self.path = path
        try:
            with alone(path):
                self._open()
        except (OSError, MlflowException, SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(explain(path, error)) from error

    def _open(self) -> None:
        if not self.path.exists():
            _create(self.path)
        with closing(sqlite3.connect(self.path)) as connection:
            # Fails at once on what is no database; MLflow would try again for two minutes. WAL lets `mlflow ui` read
            # while stages write.
            connection.execute("PRAGMA journal_mode=WAL")
        self.client = MlflowClient(tracking_uri=f"sqlite:///{self.path}")
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment_id = (
            experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT, "mlruns")
        )

    @_explained
    def runs(self, grid: str, cell: str) -> list[Run]:
        """Return the active runs of a cell, newest first."""
        query = f"tags.cell = '{cell}' and tags.grid = '{grid}'"
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    @_explained
    def open_run(self, record: Record, *, afresh: bool) -> str:
        """Continue the cell's newest run or start one; return its id.

        Args:
            record: identity, params and artifacts of the run.
            afresh: retire what was logged before; the old run stays under "deleted" in the UI.
        """
        runs = self.runs(record.grid, record.cell)
        return self._continue(record, runs, None if afresh or not runs else runs[0])

    def _continue(self, record: Record, runs: list[Run], kept: Run | None) -> str:
        """Make one run of a cell's runs, the kept one or a new one, and fill it."""
        if kept:
            run_id = kept.info.run_id
            self.client.update_run(run_id, status="RUNNING")
        else:
            # The pick is of the cell, whichever run it has.
            tags = {name: value for run in runs[:1] for name, value in run.data.tags.items() if name == "picked_by"}
            name = record.cell
            run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags | record.tags).info.run_id
        for run in runs:
            if run.info.run_id != run_id:
                self.client.delete_run(run.info.run_id)
        self.fill(run_id, record)
        return run_id

    def fill(self, run_id: str, record: Record) -> None:
        """Write whatever of the record the run lacks: params, tags, metric points, artifacts."""
        run = self.client.get_run(run_id)
        new_tags = [RunTag(name, value) for name, value in all_tags(record).items() if run.data.tags.get(name) != value]
        new_params = [Param(name, value) for name, value in record.params.items() if name not in run.data.params]
        have = {(point.key, point.step) for point in self.points(run)}
        self.client.log_batch(run_id, tags=new_tags)
        if "alarms" in run.data.tags and not record.alarms:
            self.client.delete_tag(run_id, "alarms")
        for start in range(0, len(new_params), MAX_PARAMS):
            self.client.log_batch(run_id, params=new_params[start : start + MAX_PARAMS])
        self.log_points(run_id, {point: value for point, value in record.metrics.items() if point not in have})
        for name, value in record.artifacts.items():
            self.client.log_dict(run_id, value, name)

    def log_points(self, run_id: str, points: dict[tuple[str, int], float]) -> None:
        """Log points {(name, step): value} that the run does not have."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for (name, step), value in points.items()]
        for start in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])

    @_explained
    def finished_runs(self, grid: str) -> dict[str, str]:
        """Return {cell: id of its FINISHED run} of one grid."""
        query = f"tags.grid = '{grid}' and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([self.experiment_id], query, order_by=["start_time ASC"], max_results=50_000)
        return {run.data.tags.get("cell", ""): run.info.run_id for run in runs}

    def points(self, run: Run) -> list[Metric]:
        """Return every point of a run's metrics."""
        names = sorted(run.data.metrics)
        return [point for name in names for point in self.client.get_metric_history(run.info.run_id, name)]

    @_explained
    def publish(self, record: Record) -> str:
        """Bring the cell's run to exactly what a finished record says; return its id.

        Of several runs a finished one is kept. A run that holds other values is replaced, since MLflow can neither
        change a param nor take back a point.
        """
        runs = self.runs(record.grid, record.cell)
        finished_first = sorted(runs, key=lambda run: run.info.status != "FINISHED")
        kept = (run for run in finished_first if not any(contradictions(self.logged(run), record)))
        run_id = self._continue(record, runs, next(kept, None))
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    @_explained
    def disagreements(self, record: Record) -> list[str]:
        """Name everything in which MLflow is not what the record says: `sync` mends all of it."""
        runs = self.runs(record.grid, record.cell)
        if len(runs) != 1:
            return [f"{len(runs)} MLflow runs instead of one"]
        logged = self.logged(runs[0])
        return [*contradictions(logged, record), *gaps(logged, record)]

    def logged(self, run: Run) -> Logged:
        """Return all that a run holds."""
        points = [(point.key, point.step, point.value) for point in self.points(run)]
        files = {file.path for file in self.client.list_artifacts(run.info.run_id)}
        return Logged(run.info.status, run.data.params, run.data.tags, points, files)

    @_explained
    def wrong_picks(self, grid: str, picks: Mapping[str, str]) -> list[tuple[Run, str, str]]:
        """Return the runs of a grid whose tag `picked_by` is not what `picks` says: run, its tag, what it should be."""
        runs = self.client.search_runs([self.experiment_id], f"tags.grid = '{grid}'", max_results=50_000)
        found = [(run, run.data.tags.get("picked_by", ""), picks.get(run.data.tags.get("cell"), "")) for run in runs]
        return [(run, tagged, wanted) for run, tagged, wanted in found if tagged != wanted]

    @_explained
    def tag_picks(self, grid: str, picks: Mapping[str, str]) -> list[str]:
        """Give picked runs the tag `picked_by`, and take it from the grid's other runs; again, it changes nothing.

        Args:
            grid: its name.
            picks: {cell: what picked it}.

        Returns:
            Picked cells that have no run; `python -m stages.sync` writes it.
        """
        for run, _, wanted in self.wrong_picks(grid, picks):
            if wanted:
                self.client.set_tag(run.info.run_id, "picked_by", wanted)
            else:
                self.client.delete_tag(run.info.run_id, "picked_by")
        return [cell for cell in sorted(picks) if not self.runs(grid, cell)]

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


class LiveRun:
    """The run of a cell that trains right now.

    After the first trouble of the store a warning is printed and training goes on without tracking;
    `python -m stages.sync` writes what was missed.
    """

    def __init__(self, record: Record, *, afresh: bool, path: Path = STORE) -> None:
        """Open the run of the record; `afresh` when training starts at its first epoch."""
        self._record, self._path, self._store, self._rang = record, path, None, []
        self._run_id = self._tried(lambda: self._open(afresh))

    def _open(self, afresh: bool) -> str:
        self._store = Store(self._path)
        run_id = self._store.open_run(self._record, afresh=afresh)
        # Asked once, since an epoch may take less time than asking.
        self._logged = {(point.key, point.step) for point in self._store.points(self._store.client.get_run(run_id))}
        return run_id

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log one epoch: losses and learning rate as train/<name>, what was watched as health/<name>."""
        self._tried(lambda: self._log(epoch_metrics(row)))

    def _log(self, points: dict[tuple[str, int], float]) -> None:
        new = {point: value for point, value in points.items() if point not in self._logged}
        self._store.log_points(self._run_id, new)
        self._logged |= new.keys()

    def ring(self, alarms: Mapping[str, int]) -> None:
        """Tag the run with the alarms that have rung so far, {name: epoch}, and log each of them once."""
        self._tried(lambda: self._ring(dict(alarms)))

    def _ring(self, alarms: dict[str, int]) -> None:
        self._log(alarm_metrics(alarms))
        self._store.client.set_tag(self._run_id, "alarms", alarm_tag(alarms))
        self._rang = [alarm_tag(alarms)]

    def __enter__(self) -> LiveRun:
        """Return the run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Mark a run that failed or was interrupted; a cell is FINISHED once it is probed."""
        if kind is not None:
            self._tried(lambda: self._end(kind))

    def _end(self, kind: type[BaseException]) -> None:
        client = self._store.client
        if issubclass(kind, NonFiniteLossError):
            client.set_tag(self._run_id, "alarms", ", ".join([*self._rang, "non_finite"]))
        client.set_terminated(self._run_id, "FAILED" if issubclass(kind, Exception) else "KILLED")

    def _tried(self, action: Callable[[], Any]) -> Any:
        if self._store is None and hasattr(self, "_run_id"):
            return None
        try:
            return action()
        except Exception as error:  # locked, read-only or broken store, full disk: the training result counts more
            self._store = None
            return warn_untracked(self._record.cell, self._path, error)


def publish_or_warn(record: Record, path: Path = STORE) -> None:
    """Publish a finished cell; trouble of the store is a warning, since the results are safe on disk."""
    try:
        Store(path).publish(record)
    except Exception as error:  # as in LiveRun
        warn_untracked(record.cell, path, error)
