"""Frozen public models: published weights, written in the form of a backbone that was trained here.

No code inside a weights file is ever run: safetensors, or torch's weights-only reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from torch import nn

from pipeline.models.backbones import (
    BackboneError,
    Published,
    backbone_arguments,
    initial_backbone,
    is_known,
    known_backbones,
    known_weights,
    pretrained_backbone,
    published,
)
from pipeline.models.weights import save_weights
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import sha256_file, write_json
from pipeline.schema.parameters import Model
from pipeline.sources.inputs import user_path
from pipeline.sources.transfer import TIMEOUT_S

HUB = "https://huggingface.co/"
BY_HAND = Path("models/by-hand")
"""Where the error messages suggest to put what a person fetches; git and DVC leave it alone."""


def make_model(name: str, folder: Path, entry: Model) -> dict[str, Any]:
    """Load the weights of one entry of the catalogue and write folder/backbone.safetensors and folder/model.json.

    Args:
        name: of the entry, for messages.
        folder: where to write.
        entry: of `models` in params.yaml.

    Returns:
        What model.json holds.

    Raises:
        UserError: an unknown backbone, weights that cannot be had (what to fetch, from where, where to put it), a file
            that does not fit, or an output that is not one vector an image.
    """
    backbone = entry.backbone
    if not is_known(backbone):
        known = known_weights(backbone.partition(".")[0]) or known_backbones()
        raise UserError(f"unknown backbone {backbone!r} in models.{name}.backbone{did_you_mean(backbone, known)}")
    told = published(backbone)
    size_px, mean, std = entry.img_size or told.size_px, entry.mean or told.mean, entry.std or told.std
    try:
        arguments = backbone_arguments(backbone, img_size=size_px, kwargs=entry.kwargs)
    except BackboneError as error:
        problem = str(error).rpartition("; ")[0]  # what to change is somewhere else here
        raise UserError(f"models.{name}: {problem}; change models.{name}.kwargs or models.{name}.img_size") from None
    path = user_path(entry.pretrained_path) if entry.pretrained_path else None
    if entry.random_init:
        model, origin = initial_backbone(backbone, arguments, seed=0).eval(), "untrained, seed 0"
    else:
        model = _load(name, entry, arguments, path, told).eval()
        origin = f"{entry.pretrained_path}, sha256 {sha256_file(path)}" if path else told.address
    weights = {"backbone": backbone, "kwargs": arguments, "img_size_px": size_px, "mean": mean, "std": std}
    description = {
        "backbone": backbone,
        "kwargs": arguments,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "embed_dim": _embed_dim(name, model, size_px),
        "size_px": size_px,
        "mean": mean,
        "std": std,
        "origin": origin,
    }
    save_weights(folder / "backbone.safetensors", model, weights)
    write_json(folder / "model.json", description)
    return description


def _load(name: str, entry: Model, arguments: dict[str, Any], path: Path | None, told: Published) -> nn.Module:
    backbone, key = entry.backbone, entry.checkpoint_key
    if path and not path.is_file():
        raise UserError(f"models.{name}.pretrained_path: there is no file {path}")
    if not path and not told.address:
        raise UserError(
            f"models.{name}.backbone: timm knows no weights of {backbone!r}; name a local file in "
            f"models.{name}.pretrained_path"
        )
    if key and not path and told.address.startswith(HUB):
        raise UserError(
            f"models.{name}.checkpoint_key picks from a torch checkpoint, got safetensors at {told.address}; "
            "remove it, or name a local file in pretrained_path"
        )
    try:
        if not path:
            _knock(told)
        return pretrained_backbone(backbone, arguments, path=path, checkpoint_key=key)
    except Exception as error:  # files and downloads fail in many ways, each library with errors of its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if path:
        entry = f"entry {key!r} of " if key else ""
        raise UserError(
            f"models.{name}.pretrained_path: {entry}{path} does not load as {backbone!r} with {arguments} ({reason}); "
            f"needed are its weights as safetensors, or a torch file of tensors alone, as from {told.address or 'timm'}"
        )
    raise UserError(
        f"models.{name}: the weights of {backbone!r} could not be downloaded ({reason}). Run the same command again "
        f"where there is a network, or fetch the file {told.file!r} from {told.address} by hand (licence: "
        f"{told.licence}; if the page asks for a login, accept its terms there and run `hf auth login`), put it at "
        f"{BY_HAND / name / told.file} and write that path to models.{name}.pretrained_path"
    )


def _knock(told: Published) -> None:
    """Raise at once where there is no network: the hub's client would try for a minute (measured 2026-11-22: 52 s)."""
    url = told.address
    if url.startswith(HUB):
        repo = url.removeprefix(HUB)
        if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repo, told.file), str):
            return
        url = hf_hub_url(repo, told.file)
    elif (Path(torch.hub.get_dir()) / "checkpoints" / told.file).exists():
        return
    requests.head(url, timeout=TIMEOUT_S)  # any answer will do: what it means is the client's business


def _embed_dim(name: str, model: nn.Module, size_px: int) -> int:
    with torch.inference_mode():
        shape = tuple(model(torch.zeros(1, 3, size_px, size_px)).shape)
    if len(shape) != 2:
        raise UserError(
            f"models.{name} must give one vector an image, got the shape {shape}; set a pooling in its kwargs "
            "(global_pool: avg)"
        )
    return shape[1]
