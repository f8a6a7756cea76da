"""A cell's backbone as a folder in timm's format, and the upload of one to the hub."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from pipeline.models.backbones import TIMM_VERSION, backbone_in_folder, create_backbone
from pipeline.models.weights import load_weights
from pipeline.publish.finished_cell import FinishedCell
from pipeline.publish.model_card import model_card
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json, write_text


def write_folder(cell: FinishedCell, folder: Path, *, licence: str, repository: str | None = None) -> None:
    """Write config.json, model.safetensors and README.md, whole or not at all, and prove that timm reads them.

    Args:
        cell: pretrained and probed.
        folder: that does not exist yet, or is empty.
        licence: of the weights, an identifier of the hub, as mit or cc-by-nc-4.0.
        repository: of the hub, for the card.

    Raises:
        UserError: the folder is not empty, timm has no such network, or what it loads is not what was probed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name another folder, or remove it: rm -r {shlex.quote(str(folder))}")
    run = cell.run
    if run.backbone_kwargs.get("small_stem"):
        raise UserError(
            f"{run.cell} has pretrain.backbone.small_stem, a stem that timm cannot build; {cell.weights} is for "
            "pipeline.models.backbones.create_backbone alone"
        )
    network = create_backbone(run.backbone, run.backbone_kwargs).eval()
    load_weights(cell.weights, network)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "model"
        write_json(made / "config.json", _config(cell, network, licence))
        shutil.copyfile(cell.weights, made / "model.safetensors")
        address = f"hf-hub:{repository}" if repository else f"local-dir:{folder.name}"
        write_text(made / "README.md", model_card(cell, licence=licence, address=address))
        _prove(network, made, run.views.global_px)
        made.replace(folder)


def _config(cell: FinishedCell, network: nn.Module, licence: str) -> dict[str, Any]:
    views, told = cell.run.views, network.pretrained_cfg
    resizes = cell.run.backbone_kwargs.get("dynamic_img_size", False)
    return {
        "architecture": cell.run.backbone,
        "num_classes": 0,
        "num_features": cell.summary["embed_dim"],
        "model_args": cell.run.backbone_kwargs,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, views.global_px, views.global_px],
            "fixed_input_size": told.get("fixed_input_size", False) and not resizes,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": views.mean,
            "std": views.std,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": told.get("first_conv"),
            "classifier": told.get("classifier"),
            "license": licence,
        },
    }


@torch.inference_mode()
def _prove(network: nn.Module, folder: Path, size_px: int) -> None:
    """Compare what plain timm makes of the folder with the probed network, to the last bit."""
    images = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    loaded = backbone_in_folder(f"local-dir:{folder}").eval()
    if not torch.equal(loaded(images), network(images)):
        raise UserError(
            f"timm {TIMM_VERSION} changes the weights of {network.pretrained_cfg['architecture']!r} on loading, so "
            "that features would differ from the probe's; nothing was written. Try another version of timm"
        )


def check_repository(name: str) -> None:
    """Refuse what can be no repository of the hub, before any work."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub {name!r}: {error}") from None


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder to a model repository of the hub, made if it is not there.

    Returns:
        The address of the commit.

    Raises:
        UserError: the hub refuses it or cannot be reached; the message says how to go on.
    """
    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        return api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Weights and card").commit_url
    except Exception as error:  # the client's own errors, those of its HTTP library, and of hf_xet
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder} is written, but {repository} could not be uploaded ({type(error).__name__}: {reason}). With a "
            f"network and a token that may write (`hf auth login`, or HF_TOKEN) run: hf upload {repository} "
            f"{shlex.quote(str(folder))}{' --private' * private}"
        ) from None
