"""Frozen public models: published weights, written in the form of a backbone that was trained here.

No code inside a weights file is ever run: safetensors, or torch's weights-only reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
import torch
from torch import Tensor, nn

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
from pipeline.zoo.published_checkpoints import checkpoint_entry, read_checkpoint
from pipeline.zoo.timm_folder import HUB, Folder, knock, read_folder

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
    folder_read = _open_folder(name, entry) if entry.is_folder else None
    backbone, saved, told = _identity(name, entry, folder_read)
    size_px, mean, std = entry.img_size or told.size_px, entry.mean or told.mean, entry.std or told.std
    kwargs = saved | ({"img_size": size_px} if "img_size" in saved else {}) | entry.kwargs
    try:
        arguments = backbone_arguments(backbone, img_size=size_px, kwargs=kwargs)
    except BackboneError as error:
        problem = str(error).rpartition("; ")[0]  # what to change is somewhere else here
        raise UserError(f"models.{name}: {problem}; change models.{name}.kwargs or models.{name}.img_size") from None
    path = user_path(entry.pretrained_path) if entry.pretrained_path else None
    if entry.random_init:
        model, origin = initial_backbone(backbone, arguments, seed=0).eval(), "untrained, seed 0"
    elif folder_read:
        model, origin = _load_folder(name, folder_read, arguments).eval(), folder_read.address
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


def _identity(name: str, entry: Model, folder: Folder | None) -> tuple[str, dict[str, Any], Published]:
    """Return timm's name of an entry's network, the arguments that its weights were saved with, and what is told."""
    if folder:
        return folder.architecture, folder.arguments, folder.told
    backbone = entry.backbone
    if not is_known(backbone):
        known = known_weights(backbone.partition(".")[0]) or known_backbones()
        raise UserError(f"unknown backbone {backbone!r} in models.{name}.backbone{did_you_mean(backbone, known)}")
    return backbone, {}, published(backbone)


def _open_folder(name: str, entry: Model) -> Folder:
    try:
        return read_folder(entry.backbone)
    except UserError as error:
        raise UserError(f"models.{name}.backbone: {error}") from None
    except Exception as error:  # downloads fail in many ways, each library with errors of its own
        raise _not_fetched(name, entry.backbone, error) from None


def _load_folder(name: str, folder: Folder, arguments: dict[str, Any]) -> nn.Module:
    try:
        return pretrained_backbone(folder.architecture, arguments, address=folder.address)
    except RuntimeError as error:  # of load_state_dict
        raise UserError(
            f"models.{name}.backbone: the weights of {folder.address} do not load as {folder.architecture!r} with "
            f"{arguments} ({_reason(error)})"
        ) from None
    except Exception as error:
        raise _not_fetched(name, folder.address, error) from None


def _not_fetched(name: str, address: str, error: Exception) -> UserError:
    repository, _, revision = address.partition(":")[2].partition("@")
    command = f"hf download {repository} {f'--revision {revision} ' * bool(revision)}--local-dir {BY_HAND / name}"
    return UserError(
        f"models.{name}: {address} could not be loaded ({_reason(error)}). Run the same command again where there is a "
        f"network (if {HUB}{repository} asks for a login, accept its terms there and run `hf auth login`), or run "
        f"`{command}` on another machine, bring the folder here, and write local-dir:{BY_HAND / name} to "
        f"models.{name}.backbone"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _load(name: str, entry: Model, arguments: dict[str, Any], path: Path | None, told: Published) -> nn.Module:
    backbone, key, prefix = entry.backbone, entry.checkpoint_key, entry.checkpoint_prefix
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
        if path:
            return pretrained_backbone(backbone, arguments, state=read_checkpoint(path, key=key, prefix=prefix))
        _knock(told)
        return pretrained_backbone(backbone, arguments, state=_download(told.address, key) if key else None)
    except Exception as error:  # files and downloads fail in many ways, each library with errors of its own
        reason = _reason(error)
    if path:
        part = f"entry {key!r} of " if key else ""
        raise UserError(
            f"models.{name}.pretrained_path: {part}{path} does not load as {backbone!r} with {arguments} ({reason}); "
            f"needed are its weights as safetensors, or a torch file of tensors alone, as from {told.address or 'timm'}"
        )
    raise UserError(
        f"models.{name}: the weights of {backbone!r} could not be downloaded ({reason}). Run the same command again "
        f"where there is a network, or fetch the file {told.file!r} from {told.address} by hand (licence: "
        f"{told.licence}; if the page asks for a login, accept its terms there and run `hf auth login`), put it at "
        f"{BY_HAND / name / told.file} and write that path to models.{name}.pretrained_path"
    )


def _download(address: str, key: str) -> dict[str, Tensor]:
    checkpoint = torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    return checkpoint_entry(checkpoint, key)


def _knock(told: Published) -> None:
    if told.address.startswith(HUB):
        knock(told.address.removeprefix(HUB), told.file)
    elif not (Path(torch.hub.get_dir()) / "checkpoints" / told.file).exists():
        requests.head(told.address, timeout=TIMEOUT_S)  # any answer will do: what it means is the client's business


def _embed_dim(name: str, model: nn.Module, size_px: int) -> int:
    with torch.inference_mode():
        shape = tuple(model(torch.zeros(1, 3, size_px, size_px)).shape)
    if len(shape) != 2:
        raise UserError(
            f"models.{name} must give one vector an image, got the shape {shape}; set a pooling in its kwargs "
            "(global_pool: avg)"
        )
    return shape[1]
