"""Tasks on a Ray cluster: https://docs.ray.io. One Ray task each; Ray queues, places and retries them.

Ray starts a task again when its worker or node dies; a task that fails by itself is not repeated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline import launch
from pipeline.launch.cell import GRACE_S, POLL_S, Outcome, run_through
from pipeline.launch.clones import Snapshot, bundle, run_in_clone
from pipeline.launch.tasks import Task
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import repository


class OnRay:
    """An engine: a Ray cluster that runs, or one on this machine alone that ends with the launcher."""

    def __init__(
        self, address: str | None, *, gpus: float | None, cpus: int, retries: int, workdir: str | None
    ) -> None:
        """Connect.

        Args:
            address: of a cluster, `auto` for the one that this machine belongs to; None starts one here.
            gpus: a task's share; None means one where the cluster has any now.
            cpus: of a task.
            retries: after the death of a worker or node.
            workdir: folder of a node's clones, where nodes share nothing but a DVC remote; else None.

        Raises:
            UserError: Ray is not installed, or the cluster does not answer.
        """
        self._ray = ray = _import()
        try:
            quiet = {"include_dashboard": False} if address is None else {}
            # Without an address Ray would take whichever cluster it finds on this machine.
            ray.init(address=address or "local", log_to_driver=False, logging_level="warning", **quiet)
        except (ConnectionError, ValueError) as error:
            told = f"--address {address}: no Ray cluster answers there ({error}); start one with: ray start --head"
            raise UserError(told) from None
        self._gpus = float(bool(ray.cluster_resources().get("GPU"))) if gpus is None else gpus
        self._cpus, self._workdir = cpus, workdir
        self._env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus))}
        ray.cloudpickle.register_pickle_by_value(launch)  # nodes without a copy of this code
        options = {"num_cpus": cpus, "num_gpus": self._gpus, "max_retries": retries}
        self._remote = ray.remote(**options)(_in_clone if workdir else _in_place)
        self._running: dict = {}
        self._history = ray.put(bundle(repository())) if workdir else None
        self._state = None

    @property
    def slots(self) -> int:
        """How many tasks the cluster runs at once, at its present size."""
        has = self._ray.cluster_resources()
        shares = [has.get("CPU", 0) / self._cpus] if self._cpus else []
        shares += [has.get("GPU", 0) / self._gpus] if self._gpus else []
        return max(1, int(min(shares, default=1)))

    @property
    def room(self) -> bool:
        """Ray queues what it cannot run yet."""
        return True

    def refresh(self, state: Snapshot) -> None:
        """Give the tasks to come the repository as it stands now."""
        self._state = self._ray.put(state)

    def submit(self, task: Task) -> None:
        """Hand a task to Ray."""
        where = [self._history, self._state] if self._workdir else [str(Path.cwd())]
        reference = self._remote.remote(*where, task, self._workdir, self._env)
        self._running[reference] = task

    def finished(self) -> Sequence[tuple[Task, Outcome]]:
        """Return the tasks that ended since the last call."""
        if not self._running:
            return []
        over, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=POLL_S)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in over]

    def _outcome(self, reference: object) -> Outcome:
        try:
            return Outcome(*self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Outcome(1, 0.0, f"Ray: {error}")

    def cancel(self) -> None:
        """Interrupt all tasks and wait until their stages have kept their state."""
        for reference in self._running:
            self._ray.cancel(reference)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=2 * GRACE_S)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


def _import() -> object:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError('--engine ray needs Ray; run: pip install -e ".[cluster]"') from None
    return ray


def _in_place(root: str, task: Task, _workdir: None, env: dict[str, str]) -> tuple:
    return tuple(run_through(task.stages, task.name, Path(root), (), env))


def _in_clone(history: bytes, state: Snapshot, task: Task, workdir: str, env: dict[str, str]) -> tuple:
    return tuple(run_in_clone(history, state, task, workdir, env))
