"""A transformer of a few patches, random tensors and evaluation-mode networks that the tests of pictures share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.backbones import create_backbone

VIT = {"img_size": 32, "patch_size": 8, "dynamic_img_size": True}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, arguments).eval()
