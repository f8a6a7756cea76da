"""Probe sites: where the features of a frozen backbone are taken.

Legend: B images, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn

from pipeline.runtime.errors import UserError


def site_extractor(backbone: nn.Module, site: str) -> Callable[[Tensor], Tensor]:
    """Return the function from views (B, 3, H, W) to the features (B, D) at a probe site.

    Args:
        backbone: a timm model; any module for "pooled".
        site: "pooled": the backbone's own output. "cls_last2": the class tokens after the last two blocks, each through
            the backbone's last norm, concatenated. "patch_mean": the mean over what `forward_features` returns, that is
            the patch tokens of the last layer, without class and register tokens, or the last feature map; where timm
            normalises behind the pooling (ConvNeXt, averaging ViT), without that norm.

    Raises:
        UserError: if the architecture has no such site.

    Source: LeJEPA, arXiv 2511.08544 (ViT: class tokens of the last two layers, or the mean of the patch tokens).
    Which norm the two layers pass is not stated there; as in DINOv2's linear evaluation it is the last one for both.
    """
    if site == "pooled":
        return backbone
    if site == "cls_last2":
        if getattr(backbone, "cls_token", None) is None or not _returns_prefix_tokens(backbone):
            raise _no_site(site, backbone, "class tokens of its blocks", "'pooled' or 'patch_mean'")
        return partial(_cls_last2, backbone)
    if site == "patch_mean":
        has_class = any("cls" in name for name, _ in backbone.named_parameters())
        if not _has(backbone, "forward_features", "num_features", *["num_prefix_tokens"] * has_class):
            raise _no_site(site, backbone, "patch tokens that timm tells from others, or a feature map", "'pooled'")
        return partial(_patch_mean, backbone)
    raise ValueError(f"probe.site must be 'pooled', 'cls_last2' or 'patch_mean', got {site!r}")


def check_site(backbone: nn.Module, site: str, size_px: int) -> int:
    """Try a probe site on one black image, without cost on the meta device, and return its D.

    Args:
        backbone: a timm model; comes back in the mode that it had.
        site: as for `site_extractor`.
        size_px: side of the view, px.

    Raises:
        UserError: if the architecture has no such site or fails there.
    """
    extract, was_training = site_extractor(backbone, site), backbone.training
    image = torch.zeros(1, 3, size_px, size_px, device=next(backbone.parameters()).device)
    try:
        backbone.eval()
        with torch.inference_mode():
            return extract(image).shape[1]
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"probe.site {site!r} of backbone {_name(backbone)!r} fails at {size_px} px: {reason}; "
            "set probe.site to 'pooled', for this backbone alone in overrides"
        ) from None
    finally:
        backbone.train(was_training)


def _cls_last2(backbone: nn.Module, pixels: Tensor) -> Tensor:
    blocks = backbone.forward_intermediates(
        pixels, indices=2, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.cat([prefix[:, 0] for _, prefix in blocks], dim=1)


def _patch_mean(backbone: nn.Module, pixels: Tensor) -> Tensor:
    found: Tensor = backbone.forward_features(pixels)
    if found.ndim == 3:
        mean = found[:, getattr(backbone, "num_prefix_tokens", 0) :].mean(1)
    else:
        mean = found.mean((1, 2) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else (2, 3))
    if mean.shape[1:] != (backbone.num_features,):
        raise ValueError(f"{tuple(found.shape)} is neither tokens nor a map of {backbone.num_features} features")
    return mean


def _returns_prefix_tokens(backbone: nn.Module) -> bool:
    method = getattr(backbone, "forward_intermediates", None)
    return method is not None and "return_prefix_tokens" in signature(method).parameters


def _has(backbone: nn.Module, *names: str) -> bool:
    return all(hasattr(backbone, name) for name in names)


def _name(backbone: nn.Module) -> str:
    return getattr(backbone, "pretrained_cfg", {}).get("architecture", type(backbone).__name__)


def _no_site(site: str, backbone: nn.Module, what: str, instead: str) -> UserError:
    return UserError(
        f"probe.site {site!r} needs {what}, which backbone {_name(backbone)!r} does not have; "
        f"set probe.site to {instead}, for this backbone alone in overrides"
    )
