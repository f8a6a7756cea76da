"""Features and scores at each position of an image as colours.

Legend: N images, h x w positions, D features.

Source: LeJEPA, arXiv 2511.08544, section 6.5 and figures 13 and 14, which follow DINO, arXiv 2104.14294.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Colours span these quantiles of a component: a few outlying patches would else leave one colour for all the others.
QUANTILES = (0.02, 0.98)
# Dark blue to pale yellow, lightness rising, so that it reads in grey and by the colour-blind.
RAMP = [(13, 8, 70), (84, 20, 125), (160, 40, 112), (217, 82, 77), (246, 146, 57), (252, 244, 160)]


def principal_components(features: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Fit a PCA.

    Args:
        features: (..., D); every vector counts alike.
        num: 1 to D.

    Returns:
        mean (D,) and orthonormal components (num, D), float64, variance falling. Of each component the entry largest in
        magnitude is positive.
    """
    vectors = features.flatten(0, -2).double()
    mean = vectors.mean(0)
    centred = vectors - mean
    if num <= len(centred) < centred.shape[1]:  # few vectors: eigenvectors of D x D would cost minutes
        components = torch.linalg.svd(centred, full_matrices=False).Vh[:num]
    else:
        components = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)[:num]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return mean, components * torch.where(largest < 0, -1.0, 1.0)


def project(features: Tensor, num: int = 1) -> Tensor:
    """Return the coordinates (..., num) float64 of vectors (..., D) along their own first principal components."""
    mean, components = principal_components(features, num)
    return features.double() @ components.T - mean @ components.T


def pca_rgb(features: Tensor) -> Tensor:
    """Turn features into colours: the first three principal components of all the given vectors are red, green, blue.

    For an image by itself, give it alone.

    Args:
        features: (..., D), D >= 3, as (N, h, w, D).

    Returns:
        (..., 3) uint8; each component spans its QUANTILES.
    """
    vectors = features.flatten(0, -2)
    coordinates = project(vectors, 3)
    low, high = (coordinates.quantile(share, dim=0) for share in QUANTILES)
    rounding = 1e-6 * vectors.abs().max().double()  # features are float32: less than this is no difference
    span = (high - low).clamp_min(rounding).clamp_min(torch.finfo(torch.float64).tiny)
    colours = (255 * ((coordinates - low) / span).clamp(0, 1)).round().to(torch.uint8)
    return colours.unflatten(0, features.shape[:-1])


def heat(maps: Tensor) -> Tensor:
    """Colour maps (N, h, w), each from its smallest to its largest value, as (N, h, w, 3) uint8; constant ones dark."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    share = ((maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).cpu().numpy()
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(share, stops, channel) for channel in zip(*RAMP, strict=True)]
    return torch.from_numpy(np.stack(channels, axis=-1).round().astype(np.uint8))
