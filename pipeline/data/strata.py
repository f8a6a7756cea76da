"""Draws of images class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.seeds import generator


def members_by_class(labels: Tensor, *, seed: int, purpose: str, draw: int = 0) -> list[Tensor]:
    """Return the indices of every class that has images, each class in an order drawn from (seed, purpose, draw)."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=generator(seed, purpose, draw))
    counts = [count for count in labels.bincount().tolist() if count]
    return list(order[labels[order].argsort(stable=True)].split(counts))
