"""MLflow: one run a cell, found by its tags, continued and never doubled. Trouble here costs no training result.

The store is `sqlite:///mlflow.db` in the repository root, so a plain `mlflow ui` there shows everything.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.results import Record, epoch_metrics

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

STORE = Path("mlflow.db")
EXPERIMENT = "lejepa-benchmark"
# MLflow's limits for one log_batch call.
MAX_METRICS, MAX_PARAMS = 1000, 100
# Creating the store is announced in dozens of lines otherwise.
for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Store:
    """The tracking store; opening it creates it, once, however many processes ask at the same time."""

    def __init__(self, path: Path = STORE) -> None:
        """Open or create; the first use migrates the database, which breaks unless one process does it alone."""
        with Path(f"{path}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh = not path.exists()
            with closing(sqlite3.connect(path)) as connection:
                # Fails at once on what is no database; MLflow would try again for two minutes. WAL lets `mlflow ui`
                # read while stages write.
                connection.execute("PRAGMA journal_mode=WAL" if fresh else "PRAGMA schema_version")
            self.client = MlflowClient(tracking_uri=f"sqlite:///{path}")
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            self.experiment_id = (
                experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT, "mlruns")
            )

    def runs(self, grid: str, cell: str) -> list[Run]:
        """Return the active runs of a cell, newest first."""
        query = f"tags.cell = '{cell}' and tags.grid = '{grid}'"
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def open_run(self, record: Record, *, afresh: bool) -> str:
        """Continue the cell's run or start one; return its id.

        Args:
            record: identity, params and artifacts of the run.
            afresh: retire what was logged before; the old run stays under "deleted" in the UI.
        """
        runs = self.runs(record.grid, record.cell)
        for run in runs if afresh else runs[1:]:
            self.client.delete_run(run.info.run_id)
        if runs and not afresh:
            run_id = runs[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
        else:
            run_id = self.client.create_run(self.experiment_id, run_name=record.cell).info.run_id
        self.fill(run_id, record)
        return run_id

    def fill(self, run_id: str, record: Record) -> None:
        """Write whatever of the record the run lacks: params, tags, metric points, artifacts."""
        run = self.client.get_run(run_id)
        tags = {**record.tags, "mlflow.source.git.commit": record.commit.removesuffix("-dirty")}
        new_tags = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        new_params = [Param(name, value) for name, value in record.params.items() if name not in run.data.params]
        have = {(point.key, point.step) for point in self.points(run)}
        self.client.log_batch(run_id, tags=new_tags)
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

    def finished_runs(self, grid: str) -> dict[str, str]:
        """Return {cell: id of its FINISHED run} of one grid."""
        query = f"tags.grid = '{grid}' and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([self.experiment_id], query, order_by=["start_time ASC"], max_results=50_000)
        return {run.data.tags["cell"]: run.info.run_id for run in runs}

    def points(self, run: Run) -> list[Metric]:
        """Return every point of a run's metrics."""
        names = sorted(run.data.metrics)
        return [point for name in names for point in self.client.get_metric_history(run.info.run_id, name)]

    def publish(self, record: Record) -> str:
        """Bring the cell's run to exactly what a finished record says; return its id.

        A run that holds other values is replaced, since MLflow can neither change a param nor take back a point.
        """
        runs = self.runs(record.grid, record.cell)
        afresh = bool(runs) and any(self.contradictions(runs[0], record))
        run_id = self.open_run(record, afresh=afresh)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def contradictions(self, run: Run, record: Record) -> Iterator[str]:
        """Name every param and point of the run that is not the record's; what it merely lacks is not named."""
        for name, logged in run.data.params.items():
            value = record.params.get(name, "absent")
            if logged != value:
                yield f"param {name} is {logged} in MLflow but {value} on disk"
        seen = set()
        for point in self.points(run):
            name, step, value = point.key, point.step, record.metrics.get((point.key, point.step))
            if (name, step) in seen:
                yield f"metric {name} has duplicate points at step {step} in MLflow"
            elif value is None:
                yield f"metric {name} has a point at step {step} in MLflow but not on disk"
            elif value != point.value:
                yield f"metric {name} at step {step} is {point.value!r} in MLflow but {value!r} on disk"
            seen.add((name, step))

    def disagreements(self, record: Record) -> Iterator[str]:
        """Name everything in which MLflow is not what the record says: `sync` mends all of it."""
        runs = self.runs(record.grid, record.cell)
        if len(runs) != 1:
            yield f"{len(runs)} MLflow runs instead of one"
            return
        run = runs[0]
        yield from self.contradictions(run, record)
        if run.info.status != "FINISHED":
            yield f"run {run.info.run_id} is {run.info.status}, not FINISHED"
        for name in sorted(record.params.keys() - run.data.params.keys()):
            yield f"param {name} is missing in MLflow"
        logged = {(point.key, point.step) for point in self.points(run)}
        for name, step in sorted(record.metrics.keys() - logged):
            yield f"metric {name} has no point at step {step} in MLflow"

    def tag_picks(self, grid: str, picks: Mapping[str, str]) -> list[str]:
        """Give picked runs the tag `picked_by`, and take it from the grid's other runs; again, it changes nothing.

        Args:
            grid: its name.
            picks: {cell: what picked it}.

        Returns:
            Picked cells that have no run; `python -m stages.sync` writes it.
        """
        query = f"tags.grid = '{grid}'"
        runs = self.client.search_runs([self.experiment_id], query, max_results=50_000)
        for run in runs:
            wanted, tagged = picks.get(run.data.tags["cell"]), run.data.tags.get("picked_by")
            if wanted and wanted != tagged:
                self.client.set_tag(run.info.run_id, "picked_by", wanted)
            elif tagged and not wanted:
                self.client.delete_tag(run.info.run_id, "picked_by")
        return sorted(picks.keys() - {run.data.tags["cell"] for run in runs})

    def attach(self, grid: str, cell: str, files: Iterable[Path], folder: str) -> bool:
        """Put files among the artifacts of a cell's run, in place of those of the same name.

        Args:
            grid, cell: whose run.
            files: on disk.
            folder: among the artifacts, e.g. density.

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
        self._record, self._path, self._store = record, path, None
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

    def __enter__(self) -> LiveRun:
        """Return the run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Mark a run that failed or was interrupted; a cell is FINISHED once it is probed."""
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._tried(lambda: self._store.client.set_terminated(self._run_id, status))

    def _tried(self, action: Callable[[], Any]) -> Any:
        if self._store is None and hasattr(self, "_run_id"):
            return None
        try:
            return action()
        except Exception as error:  # locked, read-only or broken store, full disk: the training result counts more
            self._store = None
            report_trouble(self._record.cell, error)
            return None


def publish_or_warn(record: Record, path: Path = STORE) -> None:
    """Publish a finished cell; trouble of the store is a warning, since the results are safe on disk."""
    try:
        Store(path).publish(record)
    except Exception as error:  # as in LiveRun
        report_trouble(record.cell, error)


def report_trouble(cell: str, error: Exception) -> None:
    """Warn that a cell is not tracked, and say how to mend it."""
    warnings.warn(
        f"MLflow tracking stopped for {cell}: {type(error).__name__}: {error}; the results are on disk, "
        "`python -m stages.sync` writes them to MLflow later",
        stacklevel=3,
    )
