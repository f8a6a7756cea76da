"""One line about all tasks: how many are done, and when the rest will be."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from tqdm import tqdm

from pipeline.launch.tasks import Task

PLAIN_EVERY_S = 30.0  # where lines cannot be overwritten


def seconds_left(
    waiting: Mapping[str, int], running: Sequence[tuple[str, float]], took: Mapping[str, Sequence[float]], slots: int
) -> float | None:
    """Estimate the seconds until all is done, from how long tasks of the same kind took.

    Args:
        waiting: {kind of task: how many have not started}.
        running: kind of each task that has, and the seconds since.
        took: {kind: seconds of each that is done}; other kinds are taken to last as long as all on average.
        slots: how many run at once, at least 1.

    Returns:
        seconds; None while nothing is done.
    """
    everything = [seconds for group in took.values() for seconds in group]
    if not everything:
        return None
    typical = defaultdict(lambda: fmean(everything), {kind: median(group) for kind, group in took.items()})
    left = [max(typical[kind] - elapsed, 0.0) for kind, elapsed in running]
    work = sum(typical[kind] * count for kind, count in waiting.items()) + sum(left)
    return max(work / max(slots, 1), *left, 0.0)


class Progress:
    """The line, overwritten on a terminal, written now and then elsewhere."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Take all tasks that will run."""
        self._waiting: dict[str, int] = defaultdict(int)
        for task in tasks:
            self._waiting[task.kind] += 1
        self._handed: dict[Task, float | None] = {}  # when it is believed to have started
        self._took: dict[str, list[float]] = defaultdict(list)
        self._failed, self._spoke = 0, time.monotonic()
        self._bar = tqdm(total=len(tasks), unit="task", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def begin(self, task: Task) -> None:
        """Note that a task was handed to its engine."""
        self._waiting[task.kind] -= 1
        self._handed[task] = None

    def end(self, task: Task, seconds: float | None) -> None:
        """Note that a task is done, in seconds of work, or that it failed (None)."""
        self._handed.pop(task)
        if seconds is None:
            self._failed += 1
        else:
            self._took[task.kind].append(seconds)
            self._bar.update()

    def show(self, slots: int) -> None:
        """Say how things stand; `slots`: how many tasks run at once."""
        now, waiting, running = time.monotonic(), defaultdict(int, self._waiting), []
        for place, (task, since) in enumerate(self._handed.items()):
            if place < slots:  # the others stand in the engine's queue
                self._handed[task] = since or now
                running.append((task.kind, now - (since or now)))
            else:
                waiting[task.kind] += 1
        left = seconds_left(waiting, running, self._took, slots)
        done = sum(map(len, self._took.values()))
        told = f"{len(running)} running, {self._failed} failed"
        if left is not None:
            told += f", {tqdm.format_interval(left)} left"
        self._bar.set_postfix_str(told)
        if self._bar.disable and now - self._spoke > PLAIN_EVERY_S:
            self._spoke = now
            self.say(f"{done} of {self._bar.total} tasks done, {told}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with tqdm.external_write_mode(file=sys.stderr):
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()
