"""Backbones from timm, the projector, and the check that a backbone fits the views before hours are spent.

Legend: B images, D embedding (backbone output), K projection (projector output).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.seeds import derive_seed


class BackboneInfo(NamedTuple):
    """What the conformance check found."""

    num_params: int
    embed_dim: int


class BackboneError(UserError):
    """A backbone that cannot be trained with these views; the message says what to change."""


def known_backbones() -> list[str]:
    """Every architecture name of the installed timm."""
    return timm.list_models()


def is_known(name: str) -> bool:
    """Whether timm has the architecture; a pretrained tag after the first dot must be known as well."""
    architecture = name.partition(".")[0]
    return timm.is_model(architecture) and (name == architecture or name in timm.list_pretrained(architecture))


def backbone_arguments(
    name: str,
    *,
    img_size: int,
    patch_size: int | None = None,
    drop_path_rate: float = 0.0,
    kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments with which plain `timm.create_model(name, num_classes=0, ...)` builds the backbone.

    Transformers learn `img_size` and `dynamic_img_size` so that one set of weights takes global and local views;
    convolutional networks have no such arguments and get none.

    Args:
        name: timm model name.
        img_size: side of a global view, px.
        patch_size: px; None keeps the architecture's own.
        drop_path_rate: stochastic depth in [0, 1]; 0 is not passed on.
        kwargs: further arguments, passed on as they are.

    Raises:
        BackboneError: if the architecture refuses an argument that was asked for explicitly, or its value.
    """
    asked = dict(kwargs or {})
    if patch_size is not None:
        asked["patch_size"] = patch_size
    if drop_path_rate:
        asked["drop_path_rate"] = drop_path_rate
    arguments = {"img_size": img_size, "dynamic_img_size": True, **asked}
    while True:
        try:
            with torch.device("meta"):
                create_backbone(name, arguments)
            return arguments
        except Exception as error:  # constructors refuse values in many ways
            # Python names one argument; timm's own check lists them: "argument(s): ['a', 'b']".
            refused = re.search(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'", str(error))
            if not refused or refused[1] not in arguments:
                raise BackboneError(
                    f"backbone {name!r} cannot be built with {arguments}: {type(error).__name__}: {error}; "
                    "change pretrain.backbone or pretrain.views.global_px"
                ) from error
            if refused[1] in asked:
                raise BackboneError(
                    f"backbone {name!r} takes no {refused[1]!r}; remove it from pretrain.backbone, "
                    "or set it for other backbones alone in overrides"
                ) from None
            del arguments[refused[1]]


def create_backbone(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Build a randomly initialised backbone whose output is the pooled embedding (B, D)."""
    quiet = logging.getLogger("timm.models._builder")
    level, quiet.level = quiet.level, logging.ERROR
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    finally:
        quiet.level = level


def make_projector(embed_dim: int, hidden_dims: Sequence[int], proj_dim: int) -> nn.Sequential:
    """Build the MLP from embedding (B, D) to projection (B, K): Linear, BatchNorm, ReLU a hidden layer, then Linear.

    Source: section 2 of the paper facts (hidden 2048, 2048; output 64 to 512).
    """
    layers: list[nn.Module] = []
    widths = [embed_dim, *hidden_dims]
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], proj_dim))


def check_backbone(
    name: str, arguments: dict[str, Any], *, global_px: int, local_px: int | None, batch_size: int
) -> BackboneInfo:
    """Run one forward and backward pass at both resolutions on two images, in training mode.

    Args:
        name: timm model name.
        arguments: of `backbone_arguments`.
        global_px: side of a global view, px.
        local_px: side of a local view, px; None where there are none.
        batch_size: images a step, which BatchNorm must be able to normalise.

    Raises:
        BackboneError: naming backbone, resolution, what failed and which setting to change.
    """
    backbone = create_backbone(name, arguments).train()
    has_batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    if has_batchnorm and batch_size < 4:
        raise BackboneError(
            f"backbone {name!r} normalises over the batch: pretrain.batch_size must be >= 4, got {batch_size}"
        )
    shapes = {px: _embed(backbone, name, px, setting) for px, setting in _resolutions(global_px, local_px)}
    dims = {px: shape[-1] for px, shape in shapes.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len(set(dims.values())) != 1:
        raise BackboneError(
            f"backbone {name!r} must give one vector an image, the same at every resolution, got {shapes}; "
            "choose another backbone or set a pooling in pretrain.backbone.kwargs (global_pool: avg)"
        )
    return BackboneInfo(sum(p.numel() for p in backbone.parameters()), dims[global_px])


def _resolutions(global_px: int, local_px: int | None) -> list[tuple[int, str]]:
    local = [(local_px, "pretrain.views.local_px")] if local_px else []
    return [(global_px, "pretrain.views.global_px"), *local]


def _embed(backbone: nn.Module, name: str, size_px: int, setting: str) -> tuple[int, ...]:
    try:
        embedding: Tensor = backbone(torch.randn(2, 3, size_px, size_px))
        embedding.float().square().mean().backward()
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"backbone {name!r} fails at {size_px} px ({setting}): {reason}; "
            f"raise {setting}, {'set pretrain.views.num_local to 0, ' if 'local' in setting else ''}"
            "set pretrain.backbone.patch_size, or remove the backbone (an entry under overrides can do it for one)"
        ) from None
    return tuple(embedding.shape)


def initial_backbone(name: str, arguments: dict[str, Any], *, seed: int) -> nn.Module:
    """Return the backbone as pretraining with this seed starts from it (the random-init baseline)."""
    torch.manual_seed(derive_seed(seed, "init"))
    return create_backbone(name, arguments)
