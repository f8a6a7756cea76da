"""The MLflow run of a cell while it trains, and once it is probed. Trouble of the store costs no training result.

Nothing here imports MLflow before it is needed: it takes seconds, which the first training step does not wait for.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import NonFiniteLossError, UserError
from pipeline.tracking.record import Record, alarm_metrics, alarm_tag, epoch_metrics, usage_metrics
from pipeline.tracking.trouble import StoreError
from pipeline.tracking.usage import UsageSampler

if TYPE_CHECKING:
    from pipeline.tracking.store import Store


def open_store(where: str | Path | None = None) -> Store:
    """Open or create the tracking store, as `store.Store` says."""
    from pipeline.tracking.store import Store

    return Store(where)


class LiveRun:
    """The run of a cell that trains right now; it is opened with the first epoch.

    After the first trouble of the store a warning is printed and training goes on without tracking;
    `python -m stages.sync` writes what was missed.
    """

    def __init__(self, record: Record, *, afresh: bool, where: str | Path | None = None) -> None:
        """Set up the run of the record; `afresh` when training starts at its first epoch."""
        self._record, self._afresh, self._where = record, afresh, where
        self._begun, self._rang = time.monotonic(), list[str]()
        self._store: Store | None = None
        self._lost = False
        self.usage: list[dict[str, float]] = []
        """Load of the machine in the epochs that were trained here, for provenance.json."""

    def _open(self) -> Store:
        if self._store is None:
            store = open_store(self._where)
            record = replace(self._record, work_s=time.monotonic() - self._begun)
            self._run_id = store.open_run(record, afresh=self._afresh)
            # Asked once, since an epoch may take less time than asking.
            self._logged = store.logged(self._run_id)
            self._store = store
        return self._store

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log one epoch: losses and learning rate as train/<name>, what was watched as watch/<name>, the load."""
        load = self._sampler.epoch(int(row["epoch"]))
        self.usage += [load] if load else []
        self._tried(self._log, epoch_metrics(row) | usage_metrics(load))
        self._sampler.resume()

    def _log(self, points: dict[tuple[str, int], float]) -> None:
        store = self._open()
        new = {point: value for point, value in points.items() if point not in self._logged}
        store.log_points(self._run_id, new)
        self._logged |= new.keys()

    def log_alerts(self, alarms: Mapping[str, int]) -> None:
        """Tag the run with the alarms that have rung so far, {name: epoch}, and log each of them once."""
        self._tried(self._log_alerts, dict(alarms))

    def _log_alerts(self, alarms: dict[str, int]) -> None:
        self._log(alarm_metrics(alarms))
        self._rang = [alarm_tag(alarms)]
        self._open().tag(self._run_id, "alarms", alarm_tag(alarms))

    def __enter__(self) -> LiveRun:
        """Start to sample the load of the machine; return the run."""
        self._sampler = UsageSampler()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Mark a run that failed, or one that was opened and is interrupted; a cell is FINISHED once it is probed."""
        self._sampler.stop()
        if kind is not None and (issubclass(kind, Exception) or self._store):
            self._tried(self._end, kind)

    def _end(self, kind: type[BaseException]) -> None:
        store = self._open()
        if issubclass(kind, NonFiniteLossError):
            store.tag(self._run_id, "alarms", ", ".join([*self._rang, "non_finite"]))
        store.end(self._run_id, "FAILED" if issubclass(kind, Exception) else "KILLED")

    def _tried(self, action: Callable[[Any], None], value: Any) -> None:
        """Do it, unless the store was in trouble before."""
        if self._lost:
            return
        try:
            action(value)
        except Exception as error:  # locked, read-only or broken store, full disk: the training result counts more
            self._lost = True
            _warn_untracked(self._record.cell, error)


def publish_or_warn(record: Record, where: str | Path | None = None) -> None:
    """Publish a finished cell; trouble of the store is a warning, since the results are safe on disk."""
    try:
        open_store(where).publish(record)
    except Exception as error:  # as in LiveRun
        _warn_untracked(record.cell, error)


def _warn_untracked(cell: str, error: Exception) -> None:
    reason = error if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    warnings.warn(
        f"MLflow tracking stopped for {cell}: {reason}; the results are safe on disk, "
        "`python -m stages.sync` writes them to MLflow later",
        stacklevel=3,
    )


def attach_or_warn(grid: str, files: Mapping[str, Iterable[Path]], folder: str) -> None:
    """Put files, {cell: paths}, in a folder of the artifacts of the cells' runs; trouble of the store is a warning."""
    with _warned("no artifacts in MLflow"):
        store = open_store()
        for cell, paths in files.items():
            if not store.attach(grid, cell, paths, folder):
                raise UserError(f"{cell} has no run; `python -m stages.sync` writes it")


def tag_or_warn(grid: str, picked: Mapping[str, str]) -> None:
    """Tag the picked runs, {cell: what picked it}; trouble of the store is a warning."""
    with _warned("no tags in MLflow"):
        for cell in open_store().tag_picks(grid, picked):
            print(f"warning: {cell} has no MLflow run to tag; run: python -m stages.sync", file=sys.stderr)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # locked, read-only or broken store: what the files hold counts more
        print(f"warning: {what}: {type(error).__name__}: {error}", file=sys.stderr)
