"""Checks of DVC's remote before machines share results through it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.launch.clones import Snapshot, is_shallow, snapshot
from pipeline.launch.repository import locked_repository
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import repository


def check_remote(name: str, engine: str) -> None:
    """Refuse a remote that other machines would not find, or that `dvc repro --pull` would not ask.

    Args:
        name: of --remote.
        engine: of --engine.

    Raises:
        UserError: it is not the default remote of .dvc/config, DVC keeps no run cache on it, or the engine is not Ray.
    """
    from dvc.config import Config  # a second, which a launch on one file system does not need

    if engine != "ray":
        raise UserError(f"--remote {name} needs --engine ray, got {engine}; SLURM's nodes must share this file system")
    config = Config(".dvc").load_one("repo")
    known = sorted(config["remote"])
    if name not in known:
        raise UserError(f"--remote {name} is not in .dvc/config, which has {known}; run: dvc remote add {name} URL")
    if config["core"].get("remote") != name:
        raise UserError(f"--remote {name}: `dvc repro --pull` asks the default remote; run: dvc remote default {name}")
    remote = config["remote"][name]
    without = [option for option in ("version_aware", "worktree") if remote.get(option)]
    without += [remote["url"]] if remote["url"].startswith(("http:", "https:")) else []
    if without:
        raise UserError(f"--remote {name}: DVC keeps no run cache with {without[0]}; use a folder, SSH, S3 or its like")
    if is_shallow(repository()):
        raise UserError(f"--remote {name}: nodes need the history, which this clone lacks; run: git fetch --unshallow")


def locked_snapshot() -> Snapshot:
    """Return the repository's state at a moment when no DVC process writes in it."""
    with locked_repository():
        return snapshot(repository(), os.path.relpath(Path.cwd(), repository()))
