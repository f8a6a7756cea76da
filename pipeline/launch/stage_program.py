"""A stage's program as a process: started on an empty folder, ended as by Ctrl-C, its success marked by a file.

DVC hears of results some minutes after their tasks have ended. Until then a marker vouches for them: digests of what
determines a result and of what lies there, so that a launch that was killed repeats nothing, and nothing older is
recorded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.launch.task_graph import Task
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.rooms import LIBRARY, sources
from pipeline.runtime.signals import deferred_signals

LOGS = Path(".scratch/launch")
POLL_S = 0.1
PR_SET_PDEATHSIG = 1  # linux/prctl.h
AT_WORK = r"\bdvc\b.* (repro|exp|commit|checkout|pull)\b|\bstages\.(launch|pretrain|probe)\b"
LAUNCH = r"\bstages\.launch\b"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class Outcome(NamedTuple):
    """How a task ended.

    Attributes:
        code: exit status, 128 + the signal's number as in a shell.
        reason: what its log does not say, else "".
    """

    code: int
    reason: str = ""


def log_path(stage: str) -> Path:
    """Return where the output of a stage's program lies, relative to the DVC project."""
    return LOGS / f"{re.sub(r'[^A-Za-z0-9_.@+-]+', '-', stage)}.log"


def is_made(task: Task) -> bool:
    """Whether a launch has made what lies in the task's folder, from the settings, code and inputs of now."""
    return is_finished(task) and _vouched(task)[0] == _inputs(task)


def is_finished(task: Task) -> bool:
    """Whether the task's folder is as a program has left it that came to its end."""
    return task.out is not None and task.out.exists() and _vouched(task)[1:] == [_outputs(task)]


def set_aside(task: Task) -> Path | None:
    """Move away what a program has finished in the task's folder, which the task is about to empty.

    Returns:
        Where it lies now, beside the folder; None if nothing finished is there.
    """
    if not is_finished(task):
        return None
    free = (task.out.with_name(f"{task.out.name}.before-{number}") for number in count(1))
    place = next(place for place in free if not place.exists())
    task.out.rename(place)
    return place


def forget(task: Task) -> None:
    """Let nothing vouch for the task's folder any more."""
    _marker(task).unlink(missing_ok=True)


def _marker(task: Task) -> Path:
    return log_path(task.stage).with_suffix(".made")


def _vouched(task: Task) -> list[str]:
    """Return the digests of the task's marker: of what its program started from, and of what it left; else nothing."""
    with suppress(FileNotFoundError):
        return _marker(task).read_text(encoding="ascii").split()
    return []


def _outputs(task: Task) -> str:
    return hashlib.sha256(_listing([task.out]).encode()).hexdigest()


def _inputs(task: Task) -> str:
    """Return a digest of settings and code by content, of data and weights by size and time of change."""
    digest = hashlib.sha256(_listing(task.reads).encode())
    for path in (task.settings, *sources(task.program)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _listing(places: Iterable[Path]) -> str:
    files = (path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*"))))
    return "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files if path.is_file())


class Run:
    """A task under way."""

    def __init__(self, task: Task, env: Mapping[str, str]) -> None:
        """Start it in the working directory, with `env` added to the environment."""
        self._task = task
        self._inputs = ""
        self._outcome: Outcome | None = None
        if task.out:
            forget(task)
            self._inputs = _inputs(task)
            if task.out.exists():
                shutil.rmtree(task.out)
        log, libc = log_path(task.stage), ctypes.CDLL(None)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *task.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **import_path(), **env},
                start_new_session=True,  # a terminal's Ctrl-C comes once, from here: a second one would not wait
                preexec_fn=lambda: _prepare(libc),
            )

    def done(self) -> bool:
        """Whether it has ended; if well, its marker is written."""
        if self._process.poll() is None:
            return False
        if self._outcome is None:
            self._outcome = self._ended(self._process.returncode)
        return True

    def _ended(self, code: int) -> Outcome:
        if code == 0 and self._task.out:
            try:
                write_text(_marker(self._task), f"{self._inputs} {_outputs(self._task)}")
            except OSError as error:
                return Outcome(1, f"it ended well, but that could not be noted: {error}; run the same command again")
        return Outcome(128 - code if code < 0 else code)

    def result(self) -> Outcome:
        """Return how it ended."""
        self._process.wait()
        self.done()
        return self._outcome

    def interrupt(self) -> None:
        """End it as Ctrl-C in a terminal does: it keeps its state first."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)


def run_task(task: Task, project: str, env: Mapping[str, str]) -> Outcome:
    """Run a task to its end in this process's main thread; what an engine calls on a node.

    SIGTERM, SIGINT and exceptions of the engine interrupt it. A program that a killed worker of this machine has left
    behind is waited for.
    """
    os.chdir(project)
    with deferred_signals() as request:
        told = set()
        while not request.signum and (orphans := _others(re.escape(" ".join(task.command)))):
            if news := {pid for pid, _ in orphans} - told:
                print(f"waits for processes {news} of an earlier attempt at {task.stage}", file=sys.stderr, flush=True)
            told |= news
            time.sleep(POLL_S)
        if request.signum:
            return Outcome(128 + request.signum)
        run = Run(task, env)
        try:
            while not run.done() and not request.signum:
                time.sleep(POLL_S)
        finally:
            if not run.done():
                run.interrupt()
                run.result()
        return run.result()


def refuse_company(pattern: str = AT_WORK, then: str = "launch") -> None:
    """Refuse to work beside another `dvc repro`, launch or program of a cell in this project on this machine.

    Args:
        pattern: of the commands that are in the way.
        then: what a person does when they are not.

    Raises:
        UserError: naming it.
    """
    for pid, command in _others(pattern):
        remedy = f"wait for its end or end it, then {then}"
        raise UserError(f"another command works in this clone: process {pid}, `{command}`; {remedy}")


def _others(pattern: str) -> list[tuple[int, str]]:
    """Return number and command of the processes in this folder, but this one and those that started it."""
    here, own = str(Path.cwd()), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or ())
        if process.info["cwd"] == here and process.pid not in own and re.search(pattern, command):
            found.append((process.pid, command))
    return found


def import_path() -> dict[str, str]:
    """Return the setting by which programs find this code, wherever they start."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(LIBRARY.parent), *([before] if before else [])])}


def _prepare(libc: ctypes.CDLL) -> None:
    """Hear interrupts, which Ray blocks and a shell ignores for what it starts behind; end with the parent (Linux)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    for signum in INTERRUPTS:
        signal.signal(signum, signal.SIG_DFL)
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
