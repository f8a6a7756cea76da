"""Checkpoints: the last states of a run, from which it resumes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.files import sha256_file, sync_folder, write_atomically
from pipeline.schema.resolved import CellRun

NUM_KEPT = 2


def checkpoints_folder(run: CellRun) -> Path:
    """Return where the states of a cell's pretraining lie.

    They outlive the stage: DVC has recorded its outputs for certain only when the probe of the cell starts.
    """
    return Path(".scratch/checkpoints", run.grid, run.cell)


class Checkpoints:
    """The last two states of one run, in a folder named by what determines its result.

    The folder is no DVC output, so an interrupted stage finds it again; a changed setting means another folder. A file
    is called step-<step>-<first half of its SHA-256>.pt, so that a torn or altered one is known by its name.
    """

    def __init__(self, root: Path, identity: Any, sources: Iterable[Path] = ()) -> None:
        """Name the folder.

        Args:
            root: where such folders live.
            identity: JSON value of all that determines the result.
            sources: files of code that determine it as well.
        """
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for source in sorted(sources):
            digest.update(source.read_bytes())
        self.identity = digest.hexdigest()[:32]
        self.folder = root / self.identity

    def save(self, state: dict[str, Any], *, step: int) -> None:
        """Keep a state; the ones before stay until it is whole on disk.

        Args:
            state: what `torch.load(weights_only=True)` reads.
            step: steps done; a state with more of them is newer.
        """
        staged = self.folder / "unfinished"
        write_atomically(staged, lambda file: torch.save({"identity": self.identity, "state": state}, file))
        # fsynced already: only the name of a whole file is still to be given, in one rename.
        os.replace(staged, self.folder / f"step-{step:012d}-{sha256_file(staged)[:32]}.pt")
        sync_folder(self.folder)
        for old in self._newest_first()[NUM_KEPT:]:
            old.unlink()

    def exist(self) -> bool:
        """Whether an interrupted run left a state here."""
        return bool(self._newest_first())

    def load(self) -> dict[str, Any] | None:
        """Return the newest whole state, or None; a torn or foreign file is passed over for the one before it."""
        for path in self._newest_first():
            try:
                return self._read(path)
            except Exception as error:  # a file that was hashed and still does not load has many ways to fail
                reason = str(error).partition("\n")[0].rstrip(".")
                print(f"checkpoint {path} is unreadable ({reason}); falling back to the previous one")
        return None

    def _read(self, path: Path) -> dict[str, Any]:
        if sha256_file(path)[:32] != path.stem.rpartition("-")[2]:
            raise ValueError("torn or altered: its SHA-256 is not the one in its name")
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["identity"] != self.identity:
            raise ValueError("of another run")
        state: dict[str, Any] = found["state"]
        return state

    def remove(self) -> None:
        """Forget the run, once its results are recorded."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)
