"""Tasks as processes on the launcher's machine: the stages between the cells, and results on their way home."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.launch import cell
from pipeline.launch.cell import Outcome
from pipeline.launch.tasks import Task


class Here:
    """An engine: a few processes at once."""

    def __init__(self, slots: int, flags: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Take the number of processes, the flags of `cell.dvc_commands`, and what is added to their environment."""
        self._slots, self._flags, self._env = slots, flags, env or {}
        self._running: dict[Task, tuple[subprocess.Popen, float]] = {}

    @property
    def room(self) -> bool:
        """Whether one more may start."""
        return len(self._running) < self._slots

    def submit(self, task: Task) -> None:
        """Start a task."""
        process = cell.start(task.stages, task.name, Path(), self._flags, self._env)
        self._running[task] = process, time.time()

    def finished(self) -> Sequence[tuple[Task, Outcome]]:
        """Return the tasks that ended since the last call."""
        over = [task for task, (process, _) in self._running.items() if process.poll() is not None]
        return [(task, self._outcome(task, *self._running.pop(task))) for task in over]

    def _outcome(self, task: Task, process: subprocess.Popen, started: float) -> Outcome:
        return cell.outcome(process, task.name, Path(), started)

    def cancel(self) -> None:
        """Interrupt all tasks and wait for their end."""
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            process.wait()


class Homeward:
    """Brings results home from the remote, all that have arrived there at once; never runs a stage."""

    def __init__(self) -> None:
        """Begin with nothing on its way."""
        # DVC runs commands by $SHELL: what the run cache does not know fails at once instead of being computed here.
        self._here = Here(1, ("--pull",), {"SHELL": "/bin/false"})
        self._arrived: list[tuple[Task, Outcome]] = []
        self._batch: list[tuple[Task, Outcome]] = []
        self._one_by_one = 0

    def submit(self, task: Task, outcome: Outcome) -> None:
        """Take a task that was done elsewhere."""
        self._arrived.append((task, outcome))

    def finished(self) -> Sequence[tuple[Task, Outcome]]:
        """Return the tasks that came home since the last call, or did not."""
        home: list[tuple[Task, Outcome]] = []
        for _, done in self._here.finished():
            if done.code == 0:
                home = self._batch
            elif len(self._batch) == 1:
                home = [(self._batch[0][0], done)]
            else:  # to know whose result is missing
                self._arrived, self._one_by_one = self._batch + self._arrived, len(self._batch)
            self._batch = []
        if self._arrived and not self._batch:
            count = 1 if self._one_by_one else len(self._arrived)
            self._one_by_one = max(self._one_by_one - 1, 0)
            self._batch, self._arrived = self._arrived[:count], self._arrived[count:]
            stages = tuple(stage for task, _ in self._batch for stage in task.stages)
            self._here.submit(Task(stages, here=True, called="results"))
        return home

    def cancel(self) -> None:
        """Stop; what was on its way stays on the remote."""
        self._here.cancel()
