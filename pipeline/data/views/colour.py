"""Colour operations on whole batches, with one strength an image.

Every function takes images (B, C, s, s) float32 in [0, 1] and parameters (B,), and works in place where its name ends
in an underscore. They equal torchvision's `adjust_*`, `rgb_to_grayscale`, `gaussian_blur` and `solarize` on float
images. They keep to what torch vectorises on CPU: no `where`, no comparison into bool, and a multiplication apart from
its addition where one factor is a value an image (measured for 3 x 224 x 224: 6 + 6 us against 80 us fused).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2 as torchvision rounds it
BLUR_KERNEL_PX = 7  # the official example's kernel size (galilai-group/lejepa, MINIMAL.md)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def grey(images: Tensor) -> Tensor:
    """Return the luma of (B, 3, ...) as (B, 1, ...)."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor` (B,) >= 0."""
    return images.mul_(_each(factor)).clamp_(0, 1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey level: factor 0 is flat, 1 leaves the image."""
    level = images.mean((2, 3), keepdim=True)
    level = grey(level) if images.shape[1] == 3 else level
    return images.mul_(_each(factor)).add_(level * _each(1 - factor)).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image: factor 0 is grey, 1 leaves the image."""
    rest = grey(images).mul_(_each(1 - factor))
    return images.mul_(_each(factor)).add_(rest).clamp_(0, 1)


def hue_(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of (B, 3, s, s) by `turns` (B,) in [-0.5, 0.5], keeping HSV's saturation and value.

    Let h in [0, 6) be the hexagonal hue and r, g, b the channels scaled so that the lowest is 0 and the highest 1.
    Then |h - 3| = 2 + r - g - b, and h < 3 where g > b: no case distinction by sextant. Back again, a channel is
    clamp(2 - d, 0, 1), d being the distance on the circle from h to the channel's own hue (0, 2, 4).
    """
    red, green, blue = images.split(1, dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    distance = (red - green).sub_(blue).add_(low)
    distance.div_(chroma.clamp(min=torch.finfo(torch.float32).tiny)).add_(2)  # any hue serves where chroma is 0
    hue = torch.copysign(distance, blue - green).div_(6).add_(_each(turns + 1.5)).frac_()  # in [0, 1): one turn
    torch.sub(hue, 3 / 6, out=red).abs_().mul_(6).sub_(1)
    two = torch.tensor(2.0)
    torch.sub(hue, 2 / 6, out=green).abs_()
    torch.sub(two, green, alpha=6, out=green)
    torch.sub(hue, 4 / 6, out=blue).abs_()
    torch.sub(two, blue, alpha=6, out=blue)
    return images.clamp_(0, 1).mul_(chroma).add_(low)


def solarize_(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels at or above `threshold` (B,); infinity leaves an image."""
    inverted = torch.empty_like(images).copy_(images).ge_(_each(threshold))
    return images.add_(inverted.mul_(1 - 2 * images))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian of `sigma` (B,) px cut to BLUR_KERNEL_PX, reflecting at the borders.

    Both passes of the separable kernel are products with one banded (s, s) matrix an image.
    """
    reach = BLUR_KERNEL_PX // 2
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    num, channels, _, side = images.shape
    matrix = (taps @ _shifts(side, images.device)).view(num, side, side)
    rows = images.reshape(num, channels * side, side) @ matrix.mT
    return matrix[:, None] @ rows.view(num, channels, side, side)


def gaussian_blur_some(images: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Blur the images where `chosen` (B,) bool holds."""
    if images.device.type != "cpu":  # selecting images would wait for the device
        return torch.where(_each(chosen), gaussian_blur(images, sigma), images)
    index = chosen.nonzero()[:, 0]
    blurred = gaussian_blur(images.index_select(0, index), sigma[index])
    place = torch.arange(len(images)).index_copy_(0, index, torch.arange(len(images), len(images) + len(index)))
    # Gathering from both is several times faster than writing the blurred ones back by index.
    return torch.cat((images, blurred)).index_select(0, place)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], *, out: Tensor) -> None:
    """Write (images - mean) / std into `out` (B, 3, s, s); a single channel spreads to all three."""
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):  # a tensor of them would make a GPU wait
        plane = images[:, channel % images.shape[1]]
        torch.mul(plane, 1 / spread, out=out[:, channel]).sub_(centre / spread)


@lru_cache(maxsize=8)
def _shifts(side: int, device: torch.device) -> Tensor:
    """Return (BLUR_KERNEL_PX, side * side): the matrices that shift by each tap's offset, reflecting at the ends."""
    reach, places = BLUR_KERNEL_PX // 2, torch.arange(side)
    source = (places + torch.arange(-reach, reach + 1)[:, None]).abs()
    source = side - 1 - (side - 1 - source).abs()
    return (source[..., None] == places).to(device, torch.float32).flatten(1)
