"""Spatial features and attention of a backbone's last layers.

Legend: N images, h x w positions (patches of a transformer, cells of a convolutional network's feature map),
D features. Backbones are in evaluation mode; views are normalised squares, (N, 3, size_px, size_px) float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.runtime.errors import UserError


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


@torch.inference_mode()
def deepest_features(backbone: nn.Module, views: Tensor, *, least_side: int) -> tuple[Tensor, str]:
    """Return the features of the deepest layer whose map is fine enough to see something, and the layer's name.

    Small images leave a convolutional network a last map of a single position. Where no layer is fine enough it is the
    deepest of the finest ones.

    Args:
        backbone: a timm model.
        views: see the legend.
        least_side: positions that h and w should have at least.

    Returns:
        (N, h, w, D) float32, as of `patch_features` for the last layer, and "last layer" or timm's name of a stage.

    Raises:
        UserError: as for `patch_features`, or if every map that timm gives has a single position.
    """
    last = patch_features(backbone, views)
    maps = [(last, "last layer")]
    if min(last.shape[1:3]) < least_side and hasattr(backbone, "forward_intermediates"):
        stages = backbone.forward_intermediates(views, output_fmt="NCHW", intermediates_only=True)
        names = [info["module"] for info in backbone.feature_info]
        maps = [(stage.movedim(1, -1).float(), name) for stage, name in zip(stages, names, strict=True)] + maps
    deepest = max(range(len(maps)), key=lambda i: (min(*maps[i][0].shape[1:3], least_side), i))
    if min(maps[deepest][0].shape[1:3]) == 1:
        size_px, name = views.shape[-1], type(backbone).__name__
        raise UserError(f"every map of {name} at {size_px} px has one position; raise pretrain.views.global_px")
    return maps[deepest]


@torch.inference_mode()
def stitched(look: Callable[[Tensor], Tensor], views: Tensor, *, fine_side: int) -> Tensor:
    """Return a finer map than the network's: look at shifted copies, and put their positions between each other.

    Nothing is interpolated: every position is one that the network has seen, in a copy whose border is repeated
    outwards by up to half a position.

    Args:
        look: views to maps (N, h, w, D).
        views: see the legend.
        fine_side: positions a side that are wanted; a map of half of them or more stays as it is.

    Returns:
        (N, f * h, f * w, D), f = fine_side // h or 1: position (f * i + a, f * j + b) is (i, j) of copy (a, b).

    Source: shift-and-stitch of Sermanet et al., arXiv 1312.6229, discussed in Long et al., arXiv 1411.4038.
    """
    plain = look(views)
    num_shifts = fine_side // plain.shape[1]
    if num_shifts < 2:
        return plain
    size_px, stride = views.shape[-1], views.shape[-1] / plain.shape[1]
    border = math.ceil(stride / 2)
    padded = pad(views, (border,) * 4, mode="replicate")
    starts = [border + round(((index + 0.5) / num_shifts - 0.5) * stride) for index in range(num_shifts)]
    copies = [padded[..., top : top + size_px, left : left + size_px] for top in starts for left in starts]
    found = look(torch.cat(copies)).unflatten(0, (num_shifts, num_shifts, len(views)))
    return found.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)


def has_class_token(backbone: nn.Module) -> bool:
    """Whether `attention_maps` of this backbone are the attention of its class token."""
    return getattr(backbone, "cls_token", None) is not None


def attention_maps(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return where a backbone looks: (N, heads, h, w) of `cls_attention`, or (N, 1, h, w) of `mean_activation`."""
    if has_class_token(backbone):
        return cls_attention(backbone, views)
    return mean_activation(patch_features(backbone, views))


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


def mean_activation(features: Tensor) -> Tensor:
    """Return the mean absolute activation at each position, the counterpart where there is no class token.

    Args:
        features: (N, h, w, D), of `patch_features` or `deepest_features`.

    Returns:
        (N, 1, h, w) float32, each image's sum 1 (0 where every activation is 0).

    Source: attention of a convolutional network as in Zagoruyko & Komodakis, arXiv 1612.03928, with power 1. Under mean
    pooling it says how much a position of the last layer can contribute to the embedding.
    """
    strength = features.abs().mean(-1)[:, None]
    return strength / strength.sum((2, 3), keepdim=True).clamp_min(torch.finfo(strength.dtype).tiny)
