"""`dvc status` and `dvc commit`: which stages are up to date, by DVC's command line alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from pipeline.launch.stage_program import forget, is_finished, is_made, set_aside
from pipeline.launch.task_graph import PRETRAIN, PROBE, Graph, Task, address
from pipeline.runtime.errors import UserError

DVC = (sys.executable, "-m", "dvc")
PATIENT_DVC = (*DVC, "--wait-for-lock")
# Words of `dvc status --json`.
DELETED = "deleted"
MODIFIED = "modified"
# Tasks that end within this time are recorded together, or within SHARE times what the last `dvc commit` took: seconds,
# in a large pipeline more, for it reads dvc.yaml anew for each of its stages.
EVERY_S, SHARE = 300.0, 10


class Plan(NamedTuple):
    """What a launch has to do.

    Attributes:
        stale: tasks to run.
        dependent: tasks that are up to date, unless one that they need comes to another result.
        made: tasks that an earlier launch has run and not recorded.
    """

    stale: list[Task]
    dependent: list[Task]
    made: list[Task]


def dvc(*arguments: str, patient: bool = True) -> None:
    """Run a command of DVC, which prints what it does.

    Args:
        arguments: of DVC's command line.
        patient: wait until no other command of DVC has locked the repository; a disk without locks is never free.

    Raises:
        UserError: it fails.
    """
    if code := subprocess.run([*(PATIENT_DVC if patient else DVC), *arguments], check=False).returncode:
        told = f"`dvc {arguments[0]}` failed with exit status {code}; its message stands above"
        remedy = "; on a disk without file locks run: dvc config --local core.hardlink_lock true"
        raise UserError(told if patient else told + remedy)


def changed(targets: Iterable[str]) -> dict[str, list]:
    """Return {stage: what has changed} of those stages among the targets that are not up to date.

    Raises:
        UserError: DVC cannot tell.
    """
    done = subprocess.run([*PATIENT_DVC, "status", "--json", *targets], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"`dvc status` failed with exit status {done.returncode}; its message stands above")
    return json.loads(done.stdout)


def make_plan(graph: Graph) -> Plan:
    """Compare all tasks with dvc.lock; results that were lost or changed by hand are brought back from DVC's cache.

    What was made and cannot be recorded, since settings, code or inputs have changed, is moved aside.
    """
    print(f"dvc status: compares {len(graph.tasks)} stages with dvc.lock", file=sys.stderr, flush=True)
    status, tried = changed(graph.files), set()
    # A pretraining first: of its probe DVC can tell once the weights are back.
    while lost := [stage for stage in status if stage not in tried and _is_lost(graph.tasks.get(stage), status[stage])]:
        print(f"dvc checkout: brings back results of {len(lost)} stages from the cache", file=sys.stderr, flush=True)
        dvc("checkout", "--quiet", "--force", "--allow-missing", *lost)
        tried |= {*lost}
        status = changed(graph.files)
    plan, affected = Plan([], [], []), set()
    for task in graph.tasks.values():
        follows = not affected.isdisjoint(task.needs)
        if task.stage in status and task.out and is_made(task) and not follows:
            plan.made.append(task)
            continue
        if task.stage in status or follows:
            affected.add(task.stage)
            (plan.stale if task.stage in status else plan.dependent).append(task)
    for task in plan.stale:
        if kept := set_aside(task):
            told = f"{task.stage}: settings, code or inputs changed after it finished; {kept} holds its result"
            print(told, file=sys.stderr, flush=True)
    for task in (*plan.stale, *plan.dependent):
        forget(task)
    return plan


def _is_lost(task: Task | None, changes: Sequence) -> bool:
    """Whether outputs are gone, whole or in part, or are others than recorded, that would be up to date.

    A stage that never ran has, to DVC, a modified program. What a launch has finished and not recorded is no loss.
    """
    if task is None or is_finished(task):
        return False
    found = defaultdict(set)
    for change in changes:
        for kind, states in change.items() if isinstance(change, dict) else ():
            found[kind] |= set(states.values())
    return not found["changed outs"].isdisjoint({DELETED, MODIFIED}) and MODIFIED not in found["changed deps"]


class Records:
    """What the tasks of a plan have made, entered into dvc.lock and DVC's cache.

    DVC records a result with the settings, code and inputs of that moment: what was made from others is left out.

    Attributes:
        stages: those that were entered.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        """Take the tasks."""
        self._graph, self._plan = graph, plan
        self._due = time.monotonic() + EVERY_S
        self.stages: set[str] = set()

    def enter(self, *options: str) -> None:
        """Enter what was made since the last time with one `dvc commit`, which takes options.

        Raises:
            UserError: it fails.
        """
        made = {task.stage for part in self._plan for task in part if task.out and is_made(task)}
        if not made:
            return
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"dvc commit: records {len(made)} stages", file=sys.stderr, flush=True)
            dvc("commit", "--force", *options, *_targets(self._graph, made))
        for stage in made:
            forget(self._graph.tasks[stage])
        self.stages |= made

    def enter_some(self) -> None:
        """Enter what was made while other tasks run, some minutes after the last time; trouble is said.

        Files stay what they are: DVC makes no links to its cache of weights that a probe reads now.
        """
        if (started := time.monotonic()) < self._due:
            return
        try:
            self.enter("--quiet", "--no-relink")
        except UserError as error:
            with tqdm.external_write_mode(file=sys.stderr):
                print(f"warning: nothing recorded yet, later again: {error}", file=sys.stderr, flush=True)
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, SHARE * (ended - started))


def _targets(graph: Graph, made: set[str]) -> list[str]:
    """Name a group whose stages were all made instead of each of them: DVC reads its files anew for every target."""
    groups = defaultdict(set)
    for stage, task in graph.tasks.items():
        groups[task.group].add(stage)
    own = {address(graph.pipeline, kind) for kind in (PRETRAIN, PROBE)}  # other pipelines have stages that are no tasks
    whole = sorted(group for group in own if groups[group] and groups[group] <= made)
    return [*whole, *(stage for stage in graph.tasks if stage in made and graph.tasks[stage].group not in whole)]
