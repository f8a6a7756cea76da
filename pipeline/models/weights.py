"""Weights as safetensors, with the network's description in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_atomically


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
