"""Hand tasks to engines as they become ready, and go on past those that fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple, Protocol

import networkx as nx

from pipeline.launch.cell import POLL_S, Outcome, log_path
from pipeline.launch.local import Here, Homeward
from pipeline.launch.remote import locked_snapshot
from pipeline.launch.status import Progress
from pipeline.launch.tasks import Task, orders
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.files import write_text
from pipeline.runtime.signals import deferred_signals


class Engine(Protocol):
    """What runs tasks elsewhere: on_ray.OnRay, on_slurm.OnSlurm."""

    slots: int
    room: bool

    def submit(self, task: Task) -> None:
        """Take a task."""

    def finished(self) -> Sequence[tuple[Task, Outcome]]:
        """Return the tasks that ended since the last call."""

    def cancel(self) -> None:
        """Interrupt all."""


class Report(NamedTuple):
    """What became of the tasks: how many are done, how those ended that failed, which were never begun for that."""

    done: int
    failed: dict[Task, Outcome]
    skipped: list[Task]

    def __str__(self) -> str:
        """Name what failed, with the end of its log, and what was skipped."""
        lines = []
        for task, outcome in self.failed.items():
            lines += [f"failed: {task.name} (exit status {outcome.code}); its full log: {log_path(task.name)}"]
            lines += [f"    {line}" for line in outcome.last_lines.splitlines()]
        lines += [f"skipped, as it needs what failed: {task.name}" for task in self.skipped]
        return "\n".join([*lines, f"{self.done} done, {len(self.failed)} failed, {len(self.skipped)} skipped"])


class Running:
    """The tasks of a graph under way: those of cells on an engine, the others here."""

    def __init__(self, tasks: nx.DiGraph, away: Engine, here: Here, homeward: Homeward | None) -> None:
        """Take the plan and its engines; `homeward` where machines share nothing but a DVC remote."""
        self._tasks, self._away, self._here, self._homeward = tasks, away, here, homeward
        self._order = TopologicalSorter(orders(tasks))
        self._ready: list[Task] = []
        self._under_way, self._done, self._failed = 0, set(), {}
        self._stale = homeward is not None
        self._progress = Progress(list(tasks))

    def run(self) -> Report:
        """Run all to the end.

        Raises:
            Interrupted: by SIGTERM or Ctrl-C; everything under way was interrupted first and has kept its state.
        """
        self._order.prepare()
        self._ready += self._order.get_ready()
        try:
            with deferred_signals() as request:
                while self._step():
                    if request.signum:
                        raise Interrupted(request.signum, self._interrupted())
                    self._progress.show(self._away.slots)
                    time.sleep(POLL_S)
        except BaseException:
            for engine in (self._away, self._here, self._homeward):
                if engine:
                    engine.cancel()
            raise
        finally:
            self._progress.close()
        reached = self._done | set(self._failed)
        return Report(len(self._done), self._failed, [task for task in self._tasks if task not in reached])

    def _step(self) -> bool:
        """Hand out what is ready and note what ended; return whether anything is left."""
        self._ready = [task for task in self._ready if not self._begin(task)]
        for task, outcome in [*self._here.finished(), *(self._homeward.finished() if self._homeward else ())]:
            self._end(task, outcome)
        for task, outcome in self._away.finished():
            if self._homeward:
                write_text(log_path(task.name), outcome.log)
            if self._homeward and outcome.code == 0:
                self._homeward.submit(task, outcome)
            else:
                self._end(task, outcome)
        return bool(self._ready or self._under_way)

    def _begin(self, task: Task) -> bool:
        engine = self._here if task.here else self._away
        if not engine.room:
            return False
        if self._stale and not task.here:
            self._away.refresh(locked_snapshot())
            self._stale = False
        engine.submit(task)
        self._progress.begin(task)
        self._under_way += 1
        return True

    def _end(self, task: Task, outcome: Outcome) -> None:
        self._under_way -= 1
        self._stale = self._homeward is not None
        if outcome.code:
            self._failed[task] = outcome
            self._progress.say(f"failed: {task.name}; its log: {log_path(task.name)}")
        else:
            self._done.add(task)
            self._order.done(task)
            self._ready += self._order.get_ready()
        self._progress.end(task, None if outcome.code else outcome.seconds)

    def _interrupted(self) -> str:
        left = len(self._tasks) - len(self._done)
        return f"interrupted with {left} tasks left; rerun the same command to resume"
