"""How far `make repro` is: each stage's program says which of how many it is, and how long the rest will take.

A stage that is left is expected to take what the most similar name of its kind took, in this run or an earlier one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline.runtime.files import read_json, write_json

VARIABLE = "REPRO_COUNT"
"""Of the environment, by which a stage's program finds the file of `begin`."""
Edges = Collection[tuple[str, str]]
"""Of a graph of stages, each from a stage to one that depends on it."""


def begin(path: Path, changed: Iterable[str], edges: Edges) -> int:
    """Note the stages that may run: those that have changed and all that depend on them; earlier times are kept.

    Returns:
        How many there are.
    """
    stages = reached(changed, edges)
    seconds = read_json(path)["seconds"] if path.exists() else {}
    state = {"total": len(stages), "left": sorted(stages), "seconds": seconds}
    write_json(path, state | {"since": time.time(), "edges": [edge for edge in edges if stages.issuperset(edge)]})
    return len(stages)


def reached(start: Iterable[str], edges: Edges) -> set[str]:
    """Return what can be reached from some stages along edges, these among it."""
    found = set(start)
    while further := {after for before, after in edges if before in found} - found:
        found |= further
    return found


@contextmanager
def counted() -> Iterator[None]:
    """Say which stage of `make repro` this program is, if it is one; note its time when it ends well."""
    path = Path(os.environ.pop(VARIABLE, ""))  # processes that the program starts are not counted
    stage = os.environ.get("DVC_STAGE", "")
    if not path.is_file() or stage not in (state := read_json(path))["left"]:
        yield
        return
    needed = reached([stage], [(after, before) for before, after in state["edges"]]) - {stage}
    state["left"] = [name for name in state["left"] if name not in needed]  # some did not need to run after all
    print(told(state["total"], state["left"], state["seconds"]), flush=True)
    yield
    now = time.time()
    state["seconds"][stage] = round(now - state["since"], 1)
    state["left"].remove(stage)
    try:
        write_json(path, state | {"since": now})
    except OSError as error:  # a count is no reason to lose a result
        print(f"warning: {path} cannot be written: {error}; stages are counted wrongly", file=sys.stderr)


def told(total: int, left: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Say which stage begins: `stage 3 of 46, at least 12 min left`; nothing of the time while none is known."""
    expected = [expected_s(name, seconds) for name in left]
    known = [second for second in expected if second is not None]
    said = f"stage {total - len(left) + 1} of {total}"
    if not known:
        return said
    return f"{said}, {'about' if len(known) == len(left) else 'at least'} {duration(sum(known))} left"


def expected_s(stage: str, seconds: Mapping[str, float]) -> float | None:
    """Return the seconds of the measured stage of this kind whose name has most words of this one's; None for none."""
    alike = [name for name in seconds if name.partition("@")[0] == stage.partition("@")[0]]
    nearest = max(alike, key=lambda name: len(words(name) & words(stage)), default=None)
    return None if nearest is None else seconds[nearest]


@cache
def words(stage: str) -> frozenset[str]:
    """Return what a stage's name is joined of: data set, backbone, lambda, seed."""
    return frozenset(stage.split("-"))


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best."""
    for unit, length, below in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72), ("days", 86400, 730)):
        if seconds < below * length:
            number = seconds / length
            return f"{number:.2g} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 31_557_600:,.1f} years"
