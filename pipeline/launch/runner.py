"""Hand tasks to engines as they become ready, and go on past those that fail."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from tqdm import tqdm

from pipeline.launch.engines import Local, OnRay, OnSlurm
from pipeline.launch.recording import Plan
from pipeline.launch.stage_program import POLL_S, Outcome, log_path
from pipeline.launch.task_graph import Task
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.signals import deferred_signals

Engine = Local | OnRay | OnSlurm
SHOWN_LINES = 12
GRACE_S = 120.0  # for interrupted stages to finish a step and keep their state


@dataclass
class Report:
    """What became of the tasks.

    Attributes:
        done: they ran.
        unchanged: they had no need to, for what they read came out as it was.
        failed: how they ended.
        skipped: they were never begun, for they need what failed.
    """

    done: list[Task] = field(default_factory=list)
    unchanged: list[Task] = field(default_factory=list)
    failed: dict[Task, Outcome] = field(default_factory=dict)
    skipped: list[Task] = field(default_factory=list)

    def reject_others(self, recorded: Collection[str]) -> None:
        """Count as failed what ran and could not be recorded."""
        told = (
            "it finished, but its settings, code or inputs changed before DVC recorded the result; to keep it, undo "
            "the change and run the same command; with the change that command moves it aside and runs the stage again"
        )
        for task in [task for task in self.done if not task.here and task.stage not in recorded]:
            self.done.remove(task)
            self.failed[task] = Outcome(1, told)

    def __str__(self) -> str:
        """Name what failed, with the end of its log, and what was skipped."""
        lines = []
        for task, outcome in self.failed.items():
            lines += [f"failed   {task.stage}  (exit status {outcome.code}; {log_path(task.stage)})"]
            lines += [f"         {line}" for line in _last_lines(task, outcome)]
        lines += [f"skipped  {task.stage}  (it needs what failed)" for task in self.skipped]
        counts = (f"{len(getattr(self, name))} {name}" for name in ("done", "unchanged", "failed", "skipped"))
        return "\n".join([*lines, ", ".join(counts)])


def _last_lines(task: Task, outcome: Outcome) -> list[str]:
    text = outcome.reason or log_path(task.stage).read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


class Runner:
    """The tasks of a plan under way: what DVC runs here, the others on an engine."""

    def __init__(
        self,
        plan: Plan,
        away: Engine,
        here: Local,
        changed: Callable[[Iterable[str]], Iterable[str]],
        record: Callable[[], None],
        retries: int,
    ) -> None:
        """Take the plan.

        Args:
            plan: what may have to run.
            away: for the programs of cells.
            here: for the commands of DVC.
            changed: returns those of some stages that are not up to date.
            record: takes note of what was made, called over and over.
            retries: of a task whose job was lost, as its worker or node died.
        """
        self._away, self._here, self._changed, self._record, self._retries = away, here, changed, record, retries
        self._stale, self._lost = set(plan.stale), Counter()
        self._tasks = {task.stage: task for task in (*plan.stale, *plan.dependent)}
        needs = {stage: [need for need in task.needs if need in self._tasks] for stage, task in self._tasks.items()}
        self._order, self._ready = TopologicalSorter(needs), []
        self._running: dict[object, Task] = {}
        self._report, self._shown = Report(), time.monotonic()

    def run(self) -> Report:
        """Run all to the end; a line says how many are done, and the time left.

        Raises:
            Interrupted: by SIGTERM or Ctrl-C; everything under way was interrupted first and has kept its state.
        """
        self._order.prepare()
        with bar("stages", len(self._tasks), unit="stage") as line, deferred_signals() as request:
            self._next()
            try:
                while self._step():
                    if request.signum:
                        left = len(self._tasks) - self._show(line)
                        told = f"interrupted with {left} stages left; rerun the same command to resume"
                        raise Interrupted(request.signum, told)
                    self._show(line)
                    time.sleep(POLL_S)
            except BaseException:
                _say(f"interrupts {len(self._running)} stages, which keep their state first")
                self._interrupt()
                raise
            self._show(line)
        reached = {*self._report.done, *self._report.unchanged, *self._report.failed}
        self._report.skipped += [task for task in self._tasks.values() if task not in reached]
        return self._report

    def _step(self) -> bool:
        """Hand out what is ready and note what ended; return whether anything is left."""
        self._ready = [task for task in self._ready if not self._begin(task)]
        for job in [job for job in self._running if job.done()]:
            self._end(self._running.pop(job), job)
        self._record()
        return bool(self._ready or self._running)

    def _engine(self, task: Task) -> Engine:
        return self._here if task.here else self._away

    def _begin(self, task: Task) -> bool:
        """Hand a task to its engine, unless that is busy; return whether it is dealt with."""
        engine = self._engine(task)
        busy = sum(other.here == task.here for other in self._running.values())
        if engine.slots is not None and busy >= engine.slots:
            return False
        try:
            self._running[engine.submit(task)] = task
        except OSError as error:  # a folder that cannot be emptied, a log that cannot be written
            self._fail(task, Outcome(1, f"it could not be started: {error}"))
        return True

    def _end(self, task: Task, job: object) -> None:
        try:
            outcome = Outcome(*job.result())
        except Exception as error:  # Ray and submitit pass on whatever a job died of
            self._lost[task] += 1
            if self._lost[task] <= self._retries:
                _say(f"lost: {task.stage}, which starts again ({str(error).partition(chr(10))[0]})")
                self._ready.append(task)
                return
            outcome = Outcome(1, f"its job was lost {self._lost[task]} times: {error}")
        if outcome.code:
            self._fail(task, outcome)
            return
        self._report.done.append(task)
        self._order.done(task.stage)
        self._next()

    def _fail(self, task: Task, outcome: Outcome) -> None:
        self._report.failed[task] = outcome
        _say(f"failed: {task.stage}; {outcome.reason or f'its log: {log_path(task.stage)}'}")

    def _next(self) -> None:
        """Take what has become ready; what was up to date runs only if what it reads is another now."""
        while ready := [self._tasks[stage] for stage in self._order.get_ready()]:
            unsure = [task.stage for task in ready if task not in self._stale]
            changed = set(self._changed(unsure)) if unsure else set()
            for task in ready:
                if task in self._stale or task.stage in changed:
                    self._ready.append(task)
                else:
                    self._report.unchanged.append(task)
                    self._order.done(task.stage)

    def _interrupt(self) -> None:
        for engine in (self._away, self._here):
            engine.interrupt([job for job, task in self._running.items() if self._engine(task) is engine])
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and not all(job.done() for job in self._running):
            time.sleep(POLL_S)

    def _show(self, line: tqdm) -> int:
        """Bring the line up to date; return how many tasks are done."""
        done = len(self._report.done) + len(self._report.unchanged)
        line.update(done - line.n)
        line.set_postfix_str(f"{len(self._running)} handed out, {len(self._report.failed)} failed", refresh=False)
        if time.monotonic() - self._shown > line.mininterval:  # also while nothing ends
            self._shown = time.monotonic()
            line.refresh()
        return done


def _say(text: str) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        print(text, file=sys.stderr, flush=True)
