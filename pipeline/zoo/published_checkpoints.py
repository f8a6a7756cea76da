"""Checkpoints of other projects: which part of a file holds the backbone, and torchvision's names as timm's.

No code inside a file is ever run: safetensors, or torch's weights-only reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models.backbones import weights_in_file

# Names of torchvision's ViT and ConvNeXt; its ResNets, RegNets, DenseNets and VGGs are named as timm's.
_VIT = [
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
]
_CONVNEXT = [
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^features\.0\.", "stem."),
    *[(rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"stages.{stage}.blocks.\1.") for stage in range(4)],
    *[(rf"^features\.{2 * stage}\.", f"stages.{stage}.downsample.") for stage in range(1, 4)],
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
]


def read_checkpoint(path: Path, *, key: str | None = None, prefix: str | None = None) -> dict[str, Tensor]:
    """Read the weights of a backbone from a file.

    Args:
        path: a safetensors or torch file.
        key: entry of a torch checkpoint that holds the weights; None: as timm picks them.
        prefix: the backbone's weights are those whose names begin with it, which is left out; None: all.

    Raises:
        KeyError: there is no such entry, or no such name.
        Exception: the file cannot be read; torch and safetensors have errors of their own.
    """
    if key:
        state = checkpoint_entry(torch.load(path, map_location="cpu", weights_only=True), key)
    else:
        state = weights_in_file(path)
    if prefix:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not state:
            raise KeyError(f"no name begins with {prefix!r}")
    return named_as_timm(state)


def checkpoint_entry(checkpoint: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    """Return one entry of a checkpoint, without the prefix that distributed training leaves in names."""
    return {name.removeprefix("module."): tensor for name, tensor in checkpoint[key].items()}


def named_as_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ViT and ConvNeXt; others come back as they are."""
    if "encoder.pos_embedding" in state:
        rules = _VIT
    elif "features.1.0.layer_scale" in state:
        rules = _CONVNEXT
    else:
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.flatten() if name.endswith(".gamma") else tensor
    return renamed
