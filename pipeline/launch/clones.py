"""A clone of this repository as it stands, commit and uncommitted changes, on a machine that shares no disk with it.

One clone a task: DVC locks a clone for all of its processes, and an interrupted pretraining finds its state where it
was. The clones of a machine share DVC's cache. Results come home through DVC's remote and its run cache.
Only the standard library is used: a machine without a copy of this code is sent it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.launch.cell import LOGS, Outcome, lock_alone, run_through, slug
from pipeline.launch.tasks import Task

COMMIT = ".git/launch-commit"
SAFELY = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}  # Python 3.10.12 and 3.11.4 brought it
CONFIG = """\
[core]
    autostage = false
[cache]
    dir = {cache}
    type = "reflink,hardlink,copy"
"""


class Snapshot(NamedTuple):
    """A repository as it stands.

    Attributes:
        commit: hash of HEAD.
        changes: tar of the files that differ from it or are new to git and not ignored.
        removed: files that it has and the working tree has not.
        project: folder of the DVC project in it, "." or "paper".
    """

    commit: str
    changes: bytes
    removed: tuple[str, ...]
    project: str = "."


def bundle(root: Path) -> bytes:
    """Return the history of HEAD as a git bundle."""
    return _git(root, "bundle", "create", "--quiet", "-", "HEAD")


def is_shallow(root: Path) -> bool:
    """Whether a clone lacks a part of its history (`git clone --depth 1`), and with it what `bundle` must hold."""
    return _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true"


def snapshot(root: Path, project: str = ".") -> Snapshot:
    """Return the present state of a repository; DVC's lock must be held while it is taken."""
    listed = {kind: _names(root, kind) for kind in ("--modified", "--others", "--deleted")}
    removed = listed["--deleted"]
    staged = _git(root, "diff", "--name-only", "-z", "--cached", "--no-renames", "HEAD").decode().split("\0")[:-1]
    changed = {name for name in [*listed["--modified"], *listed["--others"], *staged] if os.path.lexists(root / name)}
    removed |= {name for name in staged if name not in changed}
    kept, packed = sorted(name for name in changed if not name.startswith(f"{LOGS.parts[0]}/")), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name in kept:
            tar.add(root / name, name)
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    return Snapshot(commit, packed.getvalue(), tuple(sorted(removed)), project)


def _names(root: Path, kind: str) -> set[str]:
    return set(_git(root, "ls-files", "-z", "--exclude-standard", kind).decode().split("\0")[:-1])


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]} failed in {root}: {done.stderr.decode().strip()}")
    return done.stdout


def home(workdir: str) -> Path:
    """Return the folder of a machine's clones.

    Args:
        workdir: may name variables of that machine, `$TMPDIR/cells`, and begin with ~.
    """
    return Path(os.path.expandvars(workdir)).expanduser().absolute()


@contextmanager
def clone(history: bytes, state: Snapshot, name: str, folder: Path) -> Iterator[Path]:
    """Make a task's clone, or bring the one that is there to the state; ignored files stay as they are.

    Args:
        history: of `bundle`.
        state: of `snapshot`.
        name: of the task.
        folder: of all clones.
    """
    root = folder / slug(name)
    root.mkdir(parents=True, exist_ok=True)
    with (folder / f"{slug(name)}.lock").open("w+", encoding="utf-8") as lock:
        lock_alone(lock.fileno(), name)  # an orphan of a killed worker ends first
        _check_out(history, state, root)
        config = CONFIG.format(cache=folder / "cache")
        (root / state.project / ".dvc/config.local").write_text(config, encoding="utf-8")
        yield root


def _check_out(history: bytes, state: Snapshot, root: Path) -> None:
    digest = hashlib.sha256(repr((state.commit, state.removed)).encode() + state.changes).hexdigest()
    mark = root / COMMIT
    if mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return
    _git(root, "init", "--quiet")
    with tempfile.NamedTemporaryFile(suffix=".bundle") as file:
        file.write(history)
        file.flush()
        _git(root, "fetch", "--quiet", file.name, "HEAD")
    _git(root, "checkout", "--quiet", "--force", "--detach", state.commit)
    _git(root, "clean", "--quiet", "--force", "-d")
    for name in state.removed:
        (root / name).unlink(missing_ok=True)
    with tarfile.open(fileobj=io.BytesIO(state.changes), mode="r:gz") as tar:
        tar.extractall(root, **SAFELY)
    mark.write_text(digest, encoding="utf-8")


def run_in_clone(history: bytes, state: Snapshot, task: Task, workdir: str, env: dict[str, str]) -> Outcome:
    """Run a task in its clone, from the remote and to the remote; the clone of a task that succeeded is removed."""
    with clone(history, state, task.name, home(workdir)) as root:
        # A stage may read more of what another one wrote than it depends on: how it is run changes no result.
        flags = *(f"--reads={stage}" for stage in task.reads), "--pull", "--push"
        done = run_through(task.stages, task.name, root / state.project, flags, env)
        if done.code == 0:
            shutil.rmtree(root)
    return done
