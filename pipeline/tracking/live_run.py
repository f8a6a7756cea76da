"""The MLflow run of a cell while it trains, and once it is probed. Trouble of the store costs no training result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import NonFiniteLossError, UserError
from pipeline.tracking.record import Record, alarm_metrics, alarm_tag, epoch_metrics
from pipeline.tracking.store import Store
from pipeline.tracking.trouble import warn_untracked


class LiveRun:
    """The run of a cell that trains right now.

    After the first trouble of the store a warning is printed and training goes on without tracking;
    `python -m stages.sync` writes what was missed.
    """

    def __init__(self, record: Record, *, afresh: bool, where: str | Path | None = None) -> None:
        """Open the run of the record; `afresh` when training starts at its first epoch."""
        self._record, self._where, self._store, self._rang = record, where, None, []
        self._run_id = self._tried(lambda: self._open(afresh))

    def _open(self, afresh: bool) -> str:
        self._store = Store(self._where)
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

    def log_alerts(self, alarms: Mapping[str, int]) -> None:
        """Tag the run with the alarms that have rung so far, {name: epoch}, and log each of them once."""
        self._tried(lambda: self._log_alerts(dict(alarms)))

    def _log_alerts(self, alarms: dict[str, int]) -> None:
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
            where, self._store = self._store.place if self._store else self._where, None
            return warn_untracked(self._record.cell, where or "MLflow", error)


def publish_or_warn(record: Record, where: str | Path | None = None) -> None:
    """Publish a finished cell; trouble of the store is a warning, since the results are safe on disk."""
    try:
        Store(where).publish(record)
    except Exception as error:  # as in LiveRun
        warn_untracked(record.cell, where or "MLflow", error)


def attach_or_warn(grid: str, files: Mapping[str, Iterable[Path]], folder: str) -> None:
    """Put files, {cell: paths}, in a folder of the artifacts of the cells' runs; trouble of the store is a warning."""
    with _warned("no artifacts in MLflow"):
        store = Store()
        for cell, paths in files.items():
            if not store.attach(grid, cell, paths, folder):
                raise UserError(f"{cell} has no run; `python -m stages.sync` writes it")


def tag_or_warn(grid: str, picked: Mapping[str, str]) -> None:
    """Tag the picked runs, {cell: what picked it}; trouble of the store is a warning."""
    with _warned("no tags in MLflow"):
        for cell in Store().tag_picks(grid, picked):
            print(f"warning: {cell} has no MLflow run to tag; run: python -m stages.sync", file=sys.stderr)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # locked, read-only or broken store: what the files hold counts more
        print(f"warning: {what}: {type(error).__name__}: {error}", file=sys.stderr)
