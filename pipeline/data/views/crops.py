"""Random resized crops of whole batches: boxes drawn in the pixels of each image, then one antialiased resize.

Legend: B images, C channels, H x W px of images of one size, s output px. A box is (top, left, height, width) in whole
px.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

DENSE_PX = 64  # on CPU, images above this many px squared are resized one by one (measured: benchmarks.views)
NUM_TRIES = 10  # torchvision's RandomResizedCrop tries this often before it takes the centre


def random_boxes(
    heights_px: Tensor,
    widths_px: Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw one crop box an image, as torchvision's RandomResizedCrop does, for all images at once.

    Args:
        heights_px, widths_px: (B,) float32 of whole numbers, sizes of the images.
        scale: range of the box's area as a fraction of the image.
        ratio: range of the box's width / height, drawn log-uniformly.
        generator: on the device of the sizes.

    Returns:
        (B, 4) float32 of whole numbers: top, left, height, width.

    Source: torchvision `RandomResizedCrop.get_params`.
    """
    num, device = len(heights_px), heights_px.device
    area = torch.empty(NUM_TRIES, num, device=device).uniform_(*scale, generator=generator) * (heights_px * widths_px)
    log_ratio = torch.tensor(ratio, dtype=torch.float64).log().tolist()
    shape = torch.empty(NUM_TRIES, num, device=device).uniform_(*log_ratio, generator=generator).exp_()
    widths, heights = (area * shape).sqrt_().round_(), (area / shape).sqrt_().round_()
    fits = (widths > 0) & (widths <= widths_px) & (heights > 0) & (heights <= heights_px)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)  # argmax of equal values is the first
    box_height, box_width = heights.gather(0, first)[0], widths.gather(0, first)[0]
    down, across = torch.rand(2, num, device=device, generator=generator)
    top = (down * (heights_px + 1 - box_height)).floor_()
    left = (across * (widths_px + 1 - box_width)).floor_()
    drawn = torch.stack((top, left, box_height, box_width), dim=1)
    return torch.where(fits.any(0)[:, None], drawn, centre_boxes(heights_px, widths_px, ratio))


def centre_boxes(heights_px: Tensor, widths_px: Tensor, ratio: Sequence[float]) -> Tensor:
    """Return the largest centred boxes whose width / height lies in `ratio`.

    Args:
        heights_px, widths_px: (B,) float32 of whole numbers, sizes of the images.
        ratio: allowed range; (1, 1) asks for squares.

    Returns:
        (B, 4) float32 of whole numbers: top, left, height, width.
    """
    own = widths_px / heights_px
    wanted = own.clamp(*ratio) / own  # relative to the image's own ratio, so 1 keeps the whole image
    heights = (heights_px / wanted.clamp(min=1)).round_().clamp_(min=1)
    widths = (widths_px * wanted.clamp(max=1)).round_().clamp_(min=1)
    top, left = ((heights_px - heights) / 2).floor_(), ((widths_px - widths) / 2).floor_()
    return torch.stack((top, left, heights, widths), dim=1)


def crop_resize(pixels: Tensor, boxes: Tensor, size_px: int, *, flip: Tensor | None = None) -> Tensor:
    """Cut a box out of every image, resize it with the antialiased bilinear filter and flip some left to right.

    The filter is separable, so an image costs two matrix products, with weights of shape (s, H) and (s, W);
    reversed rows of the latter are the flip.

    Args:
        pixels: (B, C, H, W) uint8, or float32 in [0, 255].
        boxes: (B, 4) as `random_boxes` returns.
        size_px: s, the side of the output.
        flip: (B,) bool, or None for none.

    Returns:
        (B, C, s, s) float32 in [0, 1].

    Source: the weights of `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on the cropped image.
    """
    if pixels.device.type == "cpu" and pixels[0, 0].numel() > DENSE_PX**2:
        return _crop_resize_each(pixels, boxes, size_px, flip)
    num, channels, height, width = pixels.shape
    top, left, box_height, box_width = boxes.unbind(1)
    starts, lengths = torch.cat((top, left)), torch.cat((box_height, box_width))
    turned = None if flip is None else torch.cat((torch.zeros_like(flip), flip))
    down, across = triangle_filter(starts, lengths, max(height, width), size_px, turned).split(num)
    down, across = down[..., :height], across[..., :width]
    rows = pixels.to(torch.float32).reshape(num, channels * height, width) @ across.mT
    return (down[:, None] @ rows.view(num, channels, height, size_px)).div_(255)


def _crop_resize_each(pixels: Tensor, boxes: Tensor, size_px: int, flip: Tensor | None) -> Tensor:
    """Do the same image by image: of a large image, the products would mostly multiply zeros."""
    out = torch.empty(*pixels.shape[:2], size_px, size_px)
    turned = [False] * len(pixels) if flip is None else flip.tolist()
    for i, (top, left, height, width) in enumerate(boxes.int().tolist()):
        cut = pixels[i : i + 1, :, top : top + height, left : left + width]
        cut = cut.to(torch.float32, memory_format=torch.contiguous_format)  # whatever the loader's order, the same bits
        image = functional.interpolate(cut, (size_px, size_px), mode="bilinear", antialias=True)[0]
        out[i] = image.flip(2) if turned[i] else image
    return out.div_(255)


def triangle_filter(start: Tensor, length: Tensor, num_in: int, num_out: int, reverse: Tensor | None = None) -> Tensor:
    """Return the weights that resample [start, start + length) of `num_in` pixels to `num_out`.

    Output i is centred at start + (i + 1/2) length / num_out; its weights fall linearly to zero over one input pixel,
    or over one output pixel where that is the larger (shrinking), and sum to one inside the interval.

    Args:
        start: (B,) first pixel, whole.
        length: (B,) number of pixels, whole, >= 1.
        num_in: pixels along the axis.
        num_out: pixels wanted.
        reverse: (B,) bool, where the order of the outputs is turned round.

    Returns:
        (B, num_out, num_in) float32.
    """
    step = (length / num_out)[:, None]
    reach = step.clamp(min=1)
    order = torch.arange(num_out, device=start.device, dtype=torch.float32).expand(len(start), -1)
    if reverse is not None:
        order = torch.where(reverse[:, None], num_out - 1 - order, order)
    offset = torch.arange(num_in, device=start.device) - start[:, None]
    outside = (offset < 0) | (offset >= length[:, None])
    taps = ((offset + 0.5) / reach).masked_fill_(outside, torch.inf)  # infinitely far: weight 0
    weights = (taps[:, None] - ((order + 0.5) * step / reach)[..., None]).abs_()
    torch.sub(torch.tensor(1.0), weights, out=weights).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))
