"""What the last layer of a backbone holds at each place of an image: its features, and where it looks.

Legend: N images, h x w positions (patches of a transformer, cells of a convolutional network's last feature map),
D features. Backbones are in evaluation mode; views are normalised squares, (N, 3, size_px, size_px) float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.errors import UserError


@torch.inference_mode()
def patch_features(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return the features of the last layer at each position.

    Args:
        backbone: a timm model.
        views: see the legend.

    Returns:
        (N, h, w, D) float32: the patch tokens, without class and register tokens, or the last feature map, as
        `forward_features` gives them.

    Raises:
        UserError: if the tokens are not those of a square grid.
    """
    found = backbone.forward_features(views)
    if found.ndim == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        return (found if channels_last else found.permute(0, 2, 3, 1)).float()
    tokens = found[:, getattr(backbone, "num_prefix_tokens", 0) :]
    side = math.isqrt(tokens.shape[1])
    if side**2 != tokens.shape[1]:
        name = type(backbone).__name__
        raise UserError(f"the {tokens.shape[1]} tokens of {name} are no square grid; use another backbone")
    return tokens.unflatten(1, (side, side)).float()


def has_class_token(backbone: nn.Module) -> bool:
    """Whether `attention_maps` of this backbone are the attention of its class token."""
    return getattr(backbone, "cls_token", None) is not None


def attention_maps(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return where a backbone looks: (N, heads, h, w) of `cls_attention`, or (N, 1, h, w) of `activation_attention`."""
    return cls_attention(backbone, views) if has_class_token(backbone) else activation_attention(backbone, views)


@torch.inference_mode()
def cls_attention(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return how much the class token attends to each patch in the last block.

    The block runs with explicit instead of fused attention; what goes into its attention dropout is what is returned,
    so that normalised or rotated queries and keys are in it.

    Args:
        backbone: a timm transformer with a class token.
        views: see the legend.

    Returns:
        (N, heads, h, w) float32. The sum over positions is below 1: class and register tokens have the rest.

    Raises:
        UserError: if the architecture has no class token or computes attention in another way.
    """
    attention = getattr(backbone.blocks[-1], "attn", None) if hasattr(backbone, "blocks") else None
    if not has_class_token(backbone) or not (hasattr(attention, "fused_attn") and hasattr(attention, "attn_drop")):
        name = type(backbone).__name__
        raise UserError(f"{name} has no class token whose attention can be read; use a vit_* backbone that has")
    rows: list[Tensor] = []
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][:, :, 0].clone()))
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        backbone.forward_features(views)
    finally:
        attention.fused_attn = fused
        hook.remove()
    patches = rows[0][:, :, backbone.num_prefix_tokens :].float()
    side = math.isqrt(patches.shape[-1])
    return patches.unflatten(-1, (side, side))


def activation_attention(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return the mean absolute activation at each position, the counterpart where there is no class token.

    Returns:
        (N, 1, h, w) float32, each image's sum 1 (0 where every activation is 0).

    Source: attention of a convolutional network as in Zagoruyko & Komodakis, arXiv 1612.03928, with power 1. Under mean
    pooling it says how much a position can contribute to the embedding.
    """
    strength = patch_features(backbone, views).abs().mean(-1)[:, None]
    return strength / strength.sum((2, 3), keepdim=True).clamp_min(torch.finfo(strength.dtype).tiny)
