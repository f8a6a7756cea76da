"""Checkpoints for resuming, safetensors for the finished weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from pipeline.errors import UserError
from pipeline.files import write_atomically


def save_weights(path: Path, model: nn.Module, description: dict[str, Any]) -> None:
    """Write a model's state as safetensors, with a JSON description under the metadata key `lejepa`.

    One key, because safetensors writes several in random order and equal weights should give equal files.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    blob = save(tensors, metadata={"lejepa": json.dumps(description, sort_keys=True)})
    write_atomically(path, lambda file: file.write(blob))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into a model; every name and shape must fit."""
    model.load_state_dict(load_file(path), strict=True)


def read_description(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the description that `save_weights` put into a file: backbone, kwargs, img_size_px, mean, std.

    Args:
        path: of the weights.
        remedy: what to do where they are no use.

    Raises:
        UserError: if there is no such file, or it holds no description.
    """
    if not path.is_file():
        raise UserError(f"there is no {path}; {remedy}")
    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get("lejepa")
    if told is None:
        raise UserError(f"{path} does not say of which backbone it is, so pretraining did not write it; {remedy}")
    return json.loads(told)


# Newest first; next.pt is there only if the process died between two renames.
STATES = ("next.pt", "last.pt", "previous.pt")


class Checkpoints:
    """The last two states of one run, in a folder named by what determines its result.

    The folder is no DVC output, so an interrupted stage finds it again; a changed setting means another folder.
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
        self.folder = root / digest.hexdigest()[:32]

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state; the one before stays until this one is whole on disk."""
        current, previous = self.folder / "last.pt", self.folder / "previous.pt"
        staged = self.folder / "next.pt"
        write_atomically(staged, lambda file: torch.save(state, file))
        if current.exists():
            os.replace(current, previous)
        os.replace(staged, current)

    def exist(self) -> bool:
        """Whether an interrupted run left a state here."""
        return any((self.folder / name).exists() for name in STATES)

    def load(self) -> dict[str, Any] | None:
        """Return the newest whole state, or None; a torn file is passed over for the one before it."""
        for name in STATES:
            path = self.folder / name
            if path.exists():
                try:
                    return torch.load(path, map_location="cpu", weights_only=True)
                except Exception as error:  # torn files raise many kinds: zip, pickle, EOF, runtime errors
                    print(f"checkpoint {path} is not readable ({type(error).__name__}); trying the one before it")
        return None

    def remove(self) -> None:
        """Forget the run, once its results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
