"""Engines that run tasks: Ray, SLURM, this machine. The nodes of a cluster share this clone's file system.

https://docs.ray.io; for SLURM https://github.com/facebookincubator/submitit. An engine has `submit(task)`, which
returns a job with `done()` and `result()`, an Outcome or the exception that the job was lost by; `interrupt(jobs)`; and
`slots`, how many jobs it takes at once, None where it has a queue of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pipeline.launch.stage_program import LOGS, Outcome, Run, import_path, run_task
from pipeline.launch.task_graph import Task
from pipeline.runtime.bars import num_cpus
from pipeline.runtime.errors import UserError

INSTALL = 'run: pip install -e ".[cluster]"'
MINUTES = 72 * 60  # submitit wants a limit; SLURM's own partition may have a shorter one


@dataclass(frozen=True)
class Options:
    """Options of `python -m stages.launch` about where tasks run.

    Attributes:
        engine: `ray`, `slurm` or `local`.
        address: of a Ray cluster, `auto` for the one that this machine belongs to; None starts one here.
        gpus_per_cell: a task's share; None means one on Ray where the cluster has any now, none elsewhere.
        cpus_per_cell: of a task.
        retries: of a task whose worker or node died.
        slurm: settings of `sbatch`, `partition=gpu`.

    Raises:
        UserError: one is wrong, or means nothing to the engine.
    """

    engine: str
    address: str | None = None
    gpus_per_cell: float | None = None
    cpus_per_cell: int = 1
    retries: int = 3
    slurm: Sequence[str] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What is added to the environment of the stages' programs."""
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.cpus_per_cell))}

    def __post_init__(self) -> None:
        """Check them."""
        name, gpus = self.engine, self.gpus_per_cell
        if self.cpus_per_cell < 1:
            raise UserError(f"--cpus-per-cell must be >= 1, got {self.cpus_per_cell}")
        if (gpus or 0) < 0:
            raise UserError(f"--gpus-per-cell must be >= 0, got {gpus}")
        if self.retries < 0:
            raise UserError(f"--retries must be >= 0, got {self.retries}")
        if self.address and name != "ray":
            raise UserError(f"--address {self.address} is a Ray cluster's; use --engine ray, got {name}")
        if self.slurm and name != "slurm":
            raise UserError(f"--slurm is for --engine slurm, got {name}")
        if wrong := [pair for pair in self.slurm if "=" not in pair]:
            raise UserError(f"--slurm takes KEY=VALUE, got {wrong[0]!r}; e.g. --slurm partition=gpu time=60")
        if name == "local" and gpus:
            raise UserError("--engine local hands out no GPUs; use --engine ray, which does so on one machine as well")
        if name == "slurm" and (gpus or 0) % 1:
            raise UserError(f"--gpus-per-cell must be whole for SLURM, got {gpus}; use --engine ray for parts of one")


class Local:
    """An engine: a few processes of this machine at once, without GPUs of their own."""

    def __init__(self, slots: int, env: Mapping[str, str]) -> None:
        """Take their number, and what is added to their environment."""
        self.slots, self._env = slots, env

    def submit(self, task: Task) -> Run:
        """Start a task."""
        return Run(task, self._env)

    def interrupt(self, jobs: Iterable[Run]) -> None:
        """Interrupt tasks."""
        for job in jobs:
            job.interrupt()


class OnRay:
    """An engine: a Ray cluster that runs, or one on this machine alone that ends with this process."""

    slots = None

    def __init__(self, options: Options) -> None:
        """Connect.

        Raises:
            UserError: Ray is not installed, or the cluster does not answer.
        """
        self._ray = ray = _ray()
        address, gpus = options.address, options.gpus_per_cell
        quiet = {"include_dashboard": False} if address is None else {}
        quiet |= {"log_to_driver": False, "logging_level": "warning"}
        try:  # without an address Ray would take whichever cluster it finds on this machine
            ray.init(address or "local", runtime_env={"env_vars": import_path()}, **quiet)
        except (ConnectionError, ValueError) as error:
            told = f"--address {address}: no Ray cluster answers there ({error}); start one with: ray start --head"
            raise UserError(told) from None
        share = float(bool(ray.cluster_resources().get("GPU"))) if gpus is None else gpus
        self._remote = ray.remote(num_cpus=options.cpus_per_cell, num_gpus=share, max_retries=0)(run_task)
        self._env, self._references = options.environment, {}

    def submit(self, task: Task) -> object:
        """Hand a task to Ray, which queues and places it."""
        reference = self._remote.remote(task, str(Path.cwd()), self._env)
        job = reference.future()
        self._references[job] = reference
        return job

    def interrupt(self, jobs: Iterable) -> None:
        """Interrupt tasks."""
        for job in jobs:
            self._ray.cancel(self._references[job])


class OnSlurm:
    """An engine: SLURM."""

    slots = None

    def __init__(self, options: Options) -> None:
        """Prepare.

        Raises:
            UserError: submitit or SLURM is not here, a setting means nothing to it, or jobs of an earlier launch in
                this clone still run.
        """
        submitit = _submitit()
        self._name = f"launch-{hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:8]}"
        settings = {"timeout_min": MINUTES, "cpus_per_task": options.cpus_per_cell, "name": self._name}
        settings |= {"gpus_per_node": int(options.gpus_per_cell)} if options.gpus_per_cell else {}
        settings |= {f"slurm_{key}": value for key, value in (pair.split("=", 1) for pair in options.slurm)}
        try:
            self._executor = submitit.AutoExecutor(Path.cwd() / LOGS / "submitit", cluster="slurm")
            self._executor.update_parameters(**settings)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise UserError(f"--engine slurm: {error}") from None
        self._env = options.environment
        self._refuse_company()

    def _refuse_company(self) -> None:
        listed = ["squeue", "--me", "--noheader", "--format=%i", f"--name={self._name}"]
        if jobs := subprocess.run(listed, check=True, stdout=subprocess.PIPE, text=True).stdout.split():
            told = f"SLURM still has jobs of an earlier launch in this clone: {', '.join(jobs)}"
            raise UserError(f"{told}; wait for their end or end them with: scancel --me --name={self._name}")

    def submit(self, task: Task) -> object:
        """Hand a task to submitit."""
        return self._executor.submit(SlurmTask(task, str(Path.cwd()), self._env))

    def interrupt(self, jobs: Iterable) -> None:
        """End jobs; SLURM gives them KillWait seconds."""
        for job in jobs:
            job.cancel(check=False)


@dataclass(frozen=True)
class SlurmTask:
    """A task as submitit calls it."""

    task: Task
    project: str
    env: dict[str, str]

    def __call__(self) -> Outcome:
        """Run it."""
        return run_task(self.task, self.project, self.env)

    def checkpoint(self) -> object:
        """Start again after a preemption or the time limit: the stage kept its state."""
        return _submitit().helpers.DelayedSubmission(self)


def open_engine(options: Options) -> Local | OnRay | OnSlurm:
    """Connect to an engine.

    Raises:
        UserError: it is not installed, or does not answer.
    """
    if options.engine == "ray":
        return OnRay(options)
    if options.engine == "slurm":
        return OnSlurm(options)
    return Local(max(1, num_cpus() // options.cpus_per_cell), {**options.environment, "CUDA_VISIBLE_DEVICES": ""})


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(f"--engine ray needs Ray; {INSTALL}") from None
    return ray


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError:
        raise UserError(f"--engine slurm needs submitit; {INSTALL}") from None
    return submitit
