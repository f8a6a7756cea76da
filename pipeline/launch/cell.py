"""The DVC commands of one task as subprocesses: lock, log, end with their parent.

Only the standard library is used: a machine without a copy of this code is sent what starts it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

# What DVC says when another one of its processes is at work: of the repository, and of a file.
BUSY = re.compile(rb"Unable to acquire lock|is busy, it is being blocked by")
# What it says when one of its processes was killed while it wrote the list of files in use: half a list is left.
TORN = re.compile(rb"Unable to read RWLock-file")
FILES_IN_USE = Path(".dvc/tmp/rwlock")
BUSY_DAYS = 2.0  # that long a task waits for files that another one uses: as a lock is never held, and a cell runs
GRACE_S = 60.0  # to finish a step and keep its state
POLL_S = 0.1
SHOWN_LINES = 12
LOGS = Path(".scratch/launch")
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}  # what such a disk says
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Outcome(NamedTuple):
    """How a task ended.

    Attributes:
        code: exit status.
        seconds: wall time of its commands.
        log: what they printed, or why there is none.
    """

    code: int
    seconds: float
    log: str

    @property
    def last_lines(self) -> str:
        """The end of the log, where an error stands."""
        return "\n".join([line for line in self.log.splitlines() if line.strip()][-SHOWN_LINES:])


def slug(name: str) -> str:
    """Return a task's name as that of a file."""
    return re.sub(r"[^\w.@+-]+", "-", name)


def log_path(name: str, root: Path = Path()) -> Path:
    """Return where a task's full log lies in a clone."""
    return root / LOGS / f"{slug(name)}.log"


def dvc_commands(stages: Sequence[str], flags: Sequence[str] = ()) -> list[list[str]]:
    """Return what brings stages up to date.

    Args:
        stages: addresses.
        flags: `--reads=STAGE` pulls all results of a stage from the DVC remote first, `--pull` takes results from there
            that are known already, `--push` sends the results there.
    """
    exchange = {"--pull", "--push"} & {*flags}
    dvc = [sys.executable, "-m", "pipeline.launch.run_cache" if exchange else "dvc", "--wait-for-lock"]
    reads = [flag.removeprefix("--reads=") for flag in flags if flag.startswith("--reads=")]
    commands = [[*dvc, "pull", *reads]] * bool(reads)
    commands += [[*dvc, "repro", "--single-item", *["--pull"] * ("--pull" in flags), *stages]]
    return commands + [[*dvc, "push", "--run-cache", *stages]] * ("--push" in flags)


class _Ended:
    """Which signal asked us to end; 0 while none did. Where the parent has died, that counts as SIGHUP."""

    def __init__(self, parent: int) -> None:
        self._signum, self._parent = 0, parent

    @property
    def signum(self) -> int:
        return self._signum or (signal.SIGHUP if os.getppid() != self._parent else 0)

    @contextmanager
    def noted(self) -> Iterator[None]:
        before = {signum: signal.signal(signum, self._note) for signum in _SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, _frame: object) -> None:
        self._signum = signum


def guarded(work: Callable[[], int]) -> int:
    """Do work in a child and return its exit status; signals and the death of this process's parent are passed on.

    Ray kills the children of a worker that it gives up by SIGKILL, but not their children: those see that this process
    has died, and interrupt what they run instead of leaving it behind on a GPU.
    """
    ended, here = _Ended(os.getppid()), os.getpid()
    with ended.noted():
        if not (child := os.fork()):
            os._exit(work() if os.getppid() == here else 1)
        told = 0
        while not (over := os.waitpid(child, os.WNOHANG))[0]:
            if ended.signum and not told:
                told = signal.SIGTERM
                os.kill(child, told)
            time.sleep(POLL_S)
    return _status(os.waitstatus_to_exitcode(over[1]))


def run_commands(commands: Sequence[Sequence[str]], log: Path) -> int:
    """Run commands one after the other until one fails; return the exit status of the last one.

    One that finds DVC locked is tried again: the lock of the repository is waited for by DVC itself (after a stage's
    command, giving up would lose what it computed), the one of its list of files in use is not. SIGTERM, Ctrl-C and the
    death of the parent interrupt the running stage as Ctrl-C does, so that it keeps its state.

    Args:
        commands: of `dvc_commands`.
        log: what they print is appended here.
    """
    _hear_interrupts()
    log.parent.mkdir(parents=True, exist_ok=True)
    ended = _Ended(os.getppid())
    with ended.noted(), only_one(log.with_suffix(".lock")) as lock, log.open("ab") as file:
        for command in commands:
            waited, deadline = 1.0, time.monotonic() + BUSY_DAYS * 86400
            while code := _attempt(command, file, lock, ended):
                if code < 0 or not _busy(log) or time.monotonic() > deadline:
                    return _status(code)
                time.sleep(random.uniform(0, waited))
                waited = min(2 * waited, 30.0)
    return 0


def _status(code: int) -> int:
    """Return an exit status as a shell reports it."""
    return 128 - code if code < 0 else code


def _hear_interrupts() -> None:
    """Undo what stages would inherit: Ray blocks SIGINT, a shell ignores it for what it starts in the background."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _busy(log: Path) -> bool:
    """Whether the last command failed since another DVC process was at work, or was killed at it."""
    said = log.read_bytes().rpartition(b"\n$ ")[2]
    if torn := TORN.search(said):
        _forget_torn_list()
    return bool(torn or BUSY.search(said))


def _forget_torn_list() -> None:
    """Remove a list of files in use that cannot be read: tasks of one launch never write the same files."""
    try:
        json.loads(FILES_IN_USE.read_text(encoding="utf-8"))
    except FileNotFoundError:  # another task was first
        return
    except ValueError:
        FILES_IN_USE.unlink(missing_ok=True)


@contextmanager
def only_one(path: Path) -> Iterator[int]:
    """Wait until no other process runs this task in this clone; yield the lock, for the children to inherit.

    It is free when the last process that inherited it has ended, so that a retry never meets an orphan.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock_alone(handle, path.stem)
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield handle
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def lock_alone(handle: int, what: str) -> None:
    """Take a lock once nobody else has it, and say what is waited for; go on without it where the disk has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(handle, 20, 0).decode().strip() or "another one"
        print(f"waits for process {owner} of this machine, which still works at {what}", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        told = "nothing keeps a second launch from the same work"
        print(f"this disk has no file locks ({error.strerror}): {told}", flush=True)


def stop(name: str, root: Path = Path()) -> None:
    """Ask the program that runs a task on this machine to interrupt it."""
    with suppress(FileNotFoundError, ValueError, ProcessLookupError):  # not begun, or over
        os.kill(int(log_path(name, root).with_suffix(".lock").read_text(encoding="utf-8")), signal.SIGTERM)


def _attempt(command: Sequence[str], file: BinaryIO, lock: int, ended: _Ended) -> int:
    """Run one command in a process group of its own; return its exit status, minus the signal that ended us."""
    file.write(f"\n$ {' '.join(command[1:])}\n".encode())
    file.flush()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, pass_fds=[lock]
    )
    while (code := _wait(process, POLL_S)) is None:
        if ended.signum:
            interrupt(process)
            break
    return -ended.signum or abs(code)


def interrupt(process: subprocess.Popen, grace_s: float = GRACE_S) -> None:
    """End a process group as Ctrl-C does, by force after a while.

    DVC itself outlives the command of its stage then and tidies up; SIGTERM would leave the command behind.
    """
    for signum, patience in ((signal.SIGINT, grace_s), (signal.SIGKILL, None)):  # the rest of the group does not linger
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        _wait(process, patience)


def _wait(process: subprocess.Popen, timeout: float | None) -> int | None:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None


def start(
    stages: Sequence[str], name: str, root: Path, flags: Sequence[str], env: Mapping[str, str]
) -> subprocess.Popen:
    """Start the program that calls `run_commands`, `python -m stages.cell`, in a clone.

    Args:
        stages: addresses.
        name: of the task.
        root: the clone.
        flags: of `dvc_commands`.
        env: added to this process's environment.
    """
    log = root / log_path(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "stages.cell", *flags, str(log_path(name)), *stages]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with log.open("ab") as file:
        silent = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        return subprocess.Popen(command, cwd=root, env={**os.environ, "PATH": path, **env}, **silent)


def outcome(process: subprocess.Popen, name: str, root: Path, started: float) -> Outcome:
    """Return how a program of `start` ended."""
    log = log_path(name, root)
    return Outcome(process.returncode, time.time() - started, log.read_text(encoding="utf-8", errors="replace"))


def run_through(stages: Sequence[str], name: str, root: Path, flags: Sequence[str], env: Mapping[str, str]) -> Outcome:
    """Run a task to its end; an exception, such as the engine's for a cancelled task, interrupts its stages first."""
    started = time.time()
    _hear_interrupts()
    process = start(stages, name, root, flags, env)
    try:
        while _wait(process, POLL_S) is None:
            pass
    except BaseException:
        process.terminate()
        _wait(process, 2 * GRACE_S)
        raise
    return outcome(process, name, root, started)
