"""Folders in timm's format, on this machine or on the hub: config.json says what network model.safetensors is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import requests
from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE

from pipeline.models.backbones import Published, is_known
from pipeline.runtime.errors import UserError
from pipeline.sources.inputs import user_path
from pipeline.sources.transfer import TIMEOUT_S

HUB = "https://huggingface.co/"


class Folder(NamedTuple):
    """What a folder says of its weights.

    Attributes:
        address: as timm takes it: local-dir: with a whole path, hf-hub: with the commit.
        architecture: of timm.
        arguments: of timm.create_model with which the weights were saved.
        told: how pixels must be prepared, and whose the weights are.
    """

    address: str
    architecture: str
    arguments: dict[str, Any]
    told: Published


def read_folder(address: str) -> Folder:
    """Read config.json of a folder.

    Args:
        address: local-dir:PATH, relative to the clone, or hf-hub:REPOSITORY, with or without @REVISION.

    Raises:
        UserError: there is no such folder here, or its config.json is none of timm's.
        Exception: whatever a download ends in.
    """
    kind, _, place = address.partition(":")
    if kind == "local-dir":
        config = user_path(place) / "config.json"
        if not config.is_file():
            raise UserError(f"there is no {config}, with which a folder in timm's format begins")
        address, shown = f"local-dir:{config.parent}", place
    else:
        repository, _, revision = place.partition("@")
        knock(repository, "config.json", revision or None)
        config = Path(hf_hub_download(repository, "config.json", revision=revision or None))
        address, shown = f"hf-hub:{repository}@{config.parent.name}", HUB + repository
    return _read_config(address, shown, config)


def _read_config(address: str, shown: str, config: Path) -> Folder:
    try:
        whole = json.loads(config.read_text(encoding="utf-8"))
        weights, architecture = whole.get("pretrained_cfg", whole), whole.get("architecture")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config} is not as timm writes it ({error})") from None
    if not isinstance(architecture, str) or not is_known(architecture):
        raise UserError(f"{config} names no architecture of this timm, got {architecture!r}")
    told = Published(
        shown,
        weights.get("hf_hub_filename", "model.safetensors"),
        weights.get("license", "not stated"),
        weights.get("input_size", [3, 224, 224])[-1],
        weights.get("mean", [0.485, 0.456, 0.406]),
        weights.get("std", [0.229, 0.224, 0.225]),
    )
    arguments = {name: value for name, value in whole.get("model_args", {}).items() if name != "num_classes"}
    return Folder(address, architecture, arguments, told)


def knock(repository: str, file: str, revision: str | None = None) -> None:
    """Raise at once where there is no network: the hub's client would try for a minute (measured 2026-11-22: 52 s)."""
    if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        return
    requests.head(hf_hub_url(repository, file, revision=revision), timeout=TIMEOUT_S)
