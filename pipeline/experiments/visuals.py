"""What figures 13 and 14 add to the pictures of pipeline/pictures: masks, and how good a map features make.

Legend: N images, H x W px of an image, h x w positions of a map, D features.

Source: LeJEPA, arXiv 2511.08544, section 6.5 and figures 13 and 14, which follow DINO, arXiv 2104.14294.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.core.seeds import generator
from pipeline.pictures.colours import pca_rgb, project
from pipeline.runtime.errors import UserError

VEIL, THICKNESS = (96, 104, 152), 0.8  # over what a mask leaves out; a colour that shows on black and on white


def kept_mass(attention: Tensor, mass: float) -> Tensor:
    """Keep the strongest positions: the fewest whose sum is at least a share of the map's.

    Args:
        attention: (..., h, w), >= 0.
        mass: share in (0, 1].

    Returns:
        (..., h, w) bool. Of equal values the earlier position is kept; a map of zeros keeps nothing.

    Source: DINO's visualisation of attention (mass 0.6).
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be in (0, 1], got {mass}")
    values, order = attention.double().flatten(-2).sort(dim=-1, descending=True, stable=True)
    sums = values.cumsum(-1)
    kept = (sums - values < mass * sums[..., -1:]) & (values > 0)
    return torch.empty_like(kept).scatter_(-1, order, kept).unflatten(-1, attention.shape[-2:])


def cut_out(images: Tensor, masks: Tensor) -> Tensor:
    """Lay a veil over images (N, H, W, 3) uint8 where masks (N, h, w) bool are false."""
    kept = interpolate(masks[:, None].float(), size=images.shape[1:3], mode="nearest")[:, 0, :, :, None]
    veiled = (1 - THICKNESS) * images + THICKNESS * torch.tensor(VEIL)
    return torch.where(kept > 0, images, veiled.round().to(torch.uint8))


def foreground_rgb(features: Tensor) -> Tensor:
    """Turn features into colours as `pca_rgb`, but those of the foreground alone, as DINOv2's figures do.

    Positions above the mean of the first component are kept, with its sign such that the middle of the images is rather
    kept than their border; a second PCA of these alone gives the colours, and the others are black.

    Args:
        features: (N, h, w, D), D >= 3.

    Returns:
        (N, h, w, 3) uint8.
    """
    first = project(features)[..., 0]
    if centre_auroc(first).mean() < 0.5:
        first = -first
    chosen = first > 0
    colours = torch.zeros(*features.shape[:3], 3, dtype=torch.uint8, device=features.device)
    colours[chosen] = pca_rgb(features[chosen])
    return colours


def centre_auroc(scores: Tensor, centre_frac: float = 0.5) -> Tensor:
    """Return how well scores tell the middle of an image from its border.

    Args:
        scores: (N, h, w).
        centre_frac: side of the middle as a fraction of the image's, in (0, 1).

    Returns:
        (N,) float64, area under the ROC curve: the chance that a position of the middle has the higher score than one
        of the border, ties a half. 0.5: they cannot be told apart.

    Raises:
        UserError: if the grid is too coarse to have both.
    """
    row, column = (_in_middle(num, centre_frac, scores.device) for num in scores.shape[1:])
    middle = (row[:, None] & column).flatten()
    if not middle.any() or middle.all():
        grid = " x ".join(map(str, scores.shape[1:]))
        raise UserError(f"a grid of {grid} has no middle and border at centre_frac {centre_frac}; raise size_px")
    flat = scores.flatten(1).double()
    return torch.stack([(1 + (s[middle, None] - s[~middle]).sign().mean()) / 2 for s in flat])


def _in_middle(num: int, centre_frac: float, device: torch.device) -> Tensor:
    distance = (2 * torch.arange(num, device=device) + 1 - num).abs()  # of centres of cells from the middle, half cells
    return distance < centre_frac * num


def bootstrap_interval(values: Tensor, *, seed: int, num_draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of values (N,) under resampling with replacement."""
    draws = torch.randint(len(values), (num_draws, len(values)), generator=generator(seed, "bootstrap"))
    means = values.cpu().double()[draws].mean(1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))
