"""From views of any size to projections: the projector, and the passes of backbone and projector.

Legend: B images, M images of several views, V views, D embedding, K projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def make_projector(
    width: int, *, hidden_dims: Sequence[int], proj_dim: int, embed_dim: int | None = None
) -> nn.Sequential:
    """Build the MLP from backbone output (B, width) to projection (B, K): Linear, BatchNorm, ReLU a layer, then Linear.

    Args:
        width: of the backbone's output.
        hidden_dims: widths of the hidden layers; none makes it linear.
        proj_dim: K.
        embed_dim: width of a linear head between backbone and MLP; None: no head.

    Source: LeJEPA, arXiv 2511.08544 (head 512; hidden 2048, 2048; output 64 to 512).
    """
    layers: list[nn.Module] = [] if embed_dim is None else [nn.Linear(width, embed_dim)]
    widths = [embed_dim or width, *hidden_dims]
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], proj_dim))


def project_views(
    backbone: nn.Module, projector: nn.Module, views: list[Tensor], *, micro_batch_size: int | None = None
) -> Tensor:
    """Embed views grouped by resolution and project them all.

    A micro-batch bounds the memory: of the backbone's activations only those of one pass are held, the backward pass
    computes them again, with the same dropout. Projector and loss still see the whole batch, so that the gradient is
    its own, not a mean over parts; SIGReg, which is no mean over images, has no other exact way. A backbone with
    BatchNorm would normalise over the parts and is refused by the configure stage.

    Args:
        backbone: (M, 3, H, W) -> (M, D).
        projector: (M, D) -> (M, K).
        views: tensors (V_i, B, 3, H_i, W_i), the global ones first.
        micro_batch_size: images whose views of one size pass the backbone at a time; None: all B.

    Returns:
        (V, B, K), float32, or float64 of modules in it.
    """
    embeddings = []
    for group in views:
        pictures = group.flatten(0, 1)
        if micro_batch_size is None or micro_batch_size >= group.shape[1]:
            embeddings.append(backbone(pictures))
        else:
            parts = pictures.split(micro_batch_size * len(group))
            embeddings += [checkpoint(backbone, part, use_reentrant=False) for part in parts]
    num_views = sum(len(group) for group in views)
    projections: Tensor = projector(torch.cat(embeddings))
    exact = projections if projections.dtype == torch.float64 else projections.float()
    return exact.unflatten(0, (num_views, -1))
