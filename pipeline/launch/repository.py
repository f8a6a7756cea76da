"""DVC's repository for the launcher: its lock, and who else works in it."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.launch.cell import FILES_IN_USE, NO_LOCKS
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path(".dvc/tmp/lock")
PATIENCE_S, TELL_EVERY_S = (
    600.0,
    30.0,
)  # DVC holds its lock for seconds, with thousands of stages minutes


@contextmanager
def locked_repository() -> Iterator[Repo]:
    """Open DVC's repository here and hold its lock; while another process has it, say which.

    Raises:
        UserError: it has it for too long, or the disk has no locks.
    """
    from dvc.lock import LockError  # a second, which whoever only reads the tasks does not need
    from dvc.repo import Repo

    with Repo() as repo:
        if not repo.config["core"].get("hardlink_lock"):
            _check_disk()
        begun, told = time.monotonic(), -TELL_EVERY_S
        while True:
            try:
                repo.lock.lock()
                break
            except LockError:
                waited = time.monotonic() - begun
                if waited - told >= TELL_EVERY_S:
                    told = waited
                    left = f"gives up after {PATIENCE_S / 60:g} minutes"
                    print(f"waits for {_holder()}, which holds {LOCK}; {left}", file=sys.stderr, flush=True)
                if waited > PATIENCE_S:
                    raise UserError(f"{_holder()} has held {LOCK} for {waited:.0f} s; end it, then launch") from None
        try:
            yield repo
        finally:
            repo.lock.unlock()


def refuse_company() -> None:
    """Refuse to launch beside another `dvc repro`: our tasks would wait for its stages. Tasks of launches may be here.

    Raises:
        UserError: naming it.
    """
    try:
        in_use = json.loads(FILES_IN_USE.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing runs, or was killed while it wrote the list
        return
    users = [*in_use.get("write", {}).values(), *(user for group in in_use.get("read", {}).values() for user in group)]
    for user in users:
        if "--single-item" not in user["cmd"] and _command(user["pid"]):
            raise UserError(
                f"another DVC command works in this clone: process {user['pid']}, `{user['cmd']}`; "
                "wait for its end or end it, then launch"
            )


def _check_disk() -> None:
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.with_name("lock-test").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"the disk of {Path.cwd()} has no file locks ({error.strerror}), which DVC asks for; "
                "run: dvc config --local core.hardlink_lock true"
            ) from None


def _holder() -> str:
    """Name the process that holds DVC's lock."""
    try:
        number = LOCK.read_text(encoding="utf-8").strip()
    except OSError:
        number = ""
    command = _command(number) if number.isdecimal() else ""
    return f"process {number}, `{command}`" if command else "another DVC process"


def _command(pid: int | str) -> str:
    """Return the command of a process, "" if there is no such process."""
    import psutil  # of DVC

    try:
        return " ".join(psutil.Process(int(pid)).cmdline()) or "?"
    except psutil.Error:
        return ""
