"""Tasks as SLURM jobs, or as processes of this machine, by submitit: https://github.com/facebookincubator/submitit.

The nodes share this clone's file system, and the clone lies on it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.launch import cell
from pipeline.launch.cell import Outcome
from pipeline.launch.tasks import Task
from pipeline.runtime.errors import UserError

FOLDER = cell.LOGS / "submitit"
MINUTES = 72 * 60  # submitit wants a limit; SLURM's own partition may have a shorter one


class OnSlurm:
    """An engine: SLURM, which queues all jobs, or as many processes as this machine has cores for."""

    def __init__(self, cluster: str, *, gpus: float | None, cpus: int, retries: int, slurm: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            cluster: `slurm` or `local`.
            gpus: whole GPUs of a task, none for None; submitit's local executor hands out none.
            cpus: of a task.
            retries: after the loss of a job that said nothing: a node died.
            slurm: further settings of `sbatch` by their names, {"partition": "gpu"}.

        Raises:
            UserError: submitit or SLURM is not here, or a setting means nothing to it.
        """
        submitit = _import()
        if cluster == "local" and gpus:
            raise UserError("--engine local hands out no GPUs; use --engine ray, which does so on one machine as well")
        if (gpus or 0) % 1:
            raise UserError(f"--gpus-per-cell must be whole for SLURM, got {gpus}; use --engine ray for parts of one")
        try:
            self._executor = submitit.AutoExecutor(Path.cwd() / FOLDER, cluster=cluster)
            settings = {f"slurm_{key}": value for key, value in slurm.items()}
            gpu = {"gpus_per_node": int(gpus)} if gpus else {}
            self._executor.update_parameters(
                **{"timeout_min": MINUTES, "cpus_per_task": cpus, "name": "launch", **gpu, **settings}
            )
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise UserError(f"--engine {cluster}: {error}") from None
        self._env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus))}
        self._local = max(1, (os.cpu_count() or 1) // max(cpus, 1)) if cluster == "local" else None
        self._retries, self._lost = retries, Counter()
        self._running: dict = {}

    @property
    def slots(self) -> int:
        """How many tasks run now, or may."""
        return self._local or max(1, sum(job.state == "RUNNING" for job in self._running))

    @property
    def room(self) -> bool:
        """Whether one more can be submitted: SLURM has a queue, submitit's local executor has none."""
        return self._local is None or len(self._running) < self._local

    def submit(self, task: Task) -> None:
        """Hand a task to submitit."""
        job = self._executor.submit(Job(task.stages, task.name, str(Path.cwd()), self._env))
        self._running[job] = task

    def finished(self) -> Sequence[tuple[Task, Outcome]]:
        """Return the tasks that ended since the last call; those whose job was lost start again."""
        found = []
        for job in [job for job in self._running if job.done()]:
            task = self._running.pop(job)
            try:
                found.append((task, Outcome(*job.result())))
            except Exception as error:  # submitit passes on whatever a job died of
                self._lost[task] += 1
                if self._lost[task] <= self._retries:
                    self.submit(task)
                else:
                    found.append((task, Outcome(1, 0.0, f"submitit job {job.job_id}, {job.state}: {error}")))
        return found

    def cancel(self) -> None:
        """End all jobs; SLURM waits for KillWait seconds until it uses force."""
        if not self._local:
            for job in self._running:
                job.cancel(check=False)
            return
        for task in self._running.values():  # submitit would kill its processes after a second
            cell.stop(task.name)
        deadline = time.monotonic() + 2 * cell.GRACE_S
        while time.monotonic() < deadline and not all(job.done() for job in self._running):
            time.sleep(cell.POLL_S)

    def close(self) -> None:
        """Nothing is held."""


class Job:
    """A task as submitit calls it."""

    def __init__(self, stages: tuple[str, ...], name: str, root: str, env: dict[str, str]) -> None:
        """Take what `cell.run_through` needs."""
        self._arguments, self._env = (stages, name, Path(root)), env

    def __call__(self) -> tuple:
        """Run it."""
        return tuple(cell.run_through(*self._arguments, (), self._env))

    def checkpoint(self) -> object:
        """Start again where it was after a preemption or its time limit: the stage kept its state."""
        return _import().helpers.DelayedSubmission(self)


def _import() -> object:
    try:
        import submitit
    except ImportError:
        raise UserError('--engine slurm and local need submitit; run: pip install -e ".[cluster]"') from None
    return submitit
