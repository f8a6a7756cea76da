"""Multi-crop views: per-image random crops, colours and blur for whole batches, on the device of the images.

Legend: B images, V views, C channels (1 or 3), H x W px of images of one size. Sizes and order of the operations are
those of the paper's recipe: crop, flip, jitter, grey, blur, solarize, normalise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.views import colour
from pipeline.data.views.crops import centre_boxes, crop_resize, random_boxes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Float32 images processed at once: what stays in a core's cache (measured: benchmarks.views); bounded memory on a GPU.
CHUNK_BYTES = {"cpu": 3 * 2**19, "cuda": 2**28, "mps": 2**28}


class Draws(NamedTuple):
    """The random parameters of one view beside its box, each (B, ...)."""

    flip: Tensor
    jitter: Tensor  # (B, 4): factors of brightness, contrast, saturation; turns of hue
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor


class ViewGroup(NamedTuple):
    """Views of one size: how many, their side, and the range of their areas as fractions of the image."""

    num: int
    size_px: int
    scale: Sequence[float]


Crop = Callable[[int, slice, slice, Tensor], Tensor]
"""(view, images, their places among the draws, flip) -> crops (b, C, s, s) float32 in [0, 1]."""


@dataclass(frozen=True)
class Multicrop:
    """Global and local views of a batch; every random parameter is drawn per image and view.

    Args:
        num_global, num_local: views an image of each kind.
        global_px, local_px: their sides.
        global_scale, local_scale: range of a crop's area as a fraction of the image.
        ratio: range of a crop's width / height.
        flip_prob: of a left-right flip; 0 for digits and text.
        jitter_prob: of brightness, contrast, saturation and hue, together.
        brightness, contrast, saturation: factors are uniform in [1 - x, 1 + x], cut at 0.
        hue: shift uniform in [-hue, hue] turns, at most 0.5.
        grey_prob, blur_prob, solarize_prob: of the other operations.
        blur_sigma: range of the Gaussian's standard deviation, px; the kernel is 7 px wide.
        solarize_threshold: 0 to 256 on the scale of uint8; pixels at or above it are inverted.
        mean, std: of pixels in [0, 1], three channels.

    Raises:
        ValueError: a setting is out of range; the message names its path in params.yaml.

    Source: the paper's recipe (arXiv 2511.08544); each operation follows torchvision's. Different from it: the four
    jitter operations come in an order drawn for each chunk of a view's images that is processed at once (there: for
    each image), and nothing is rounded to uint8 in between.
    """

    num_global: int = 2
    num_local: int = 6
    global_px: int = 224
    local_px: int = 98
    global_scale: Sequence[float] = (0.3, 1.0)
    local_scale: Sequence[float] = (0.05, 0.3)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: Sequence[float] = (0.1, 2.0)
    solarize_prob: float = 0.2
    solarize_threshold: int = 128
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Turn lists into tuples (JSON knows no tuples) and check every setting."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        for name, (holds, rule) in _rules(self).items():
            if not holds:
                raise ValueError(f"pretrain.views.{name} must be {rule}, got {getattr(self, name)}")

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, *, generator: torch.Generator, first: int = 0, of: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Make all views of a batch, or of a part of one.

        Args:
            pixels: (B, C, H, W) uint8, C 1 (grey) or 3.
            generator: on the device of `pixels`; its state and the input determine every bit. Nothing waits for the
                device.
            first, of: the images are those from `first` on of a batch of `of` images, and get the views that they would
                get in it; None: they are the batch.

        Returns:
            global views (Vg, B, 3, global_px, global_px) and local views (Vl, B, 3, local_px, local_px), float32,
            normalised; None in place of the latter when num_local is 0.
        """
        _check(pixels)
        batch = len(pixels) if of is None else of
        with torch.autocast(pixels.device.type, enabled=False):  # eight bits of mantissa would show in the pixels
            source = pixels if pixels.device.type == "cpu" else pixels.to(torch.float32)
            views = []
            for group in self.groups:
                # All views' parameters at once: (num * batch, ...), view by view; of the whole batch.
                heights_px, widths_px = _sides(group.num * batch, source)
                boxes = random_boxes(heights_px, widths_px, group.scale, self.ratio, generator=generator)
                crop = _from_images(source, boxes, group.size_px)
                shape = group.num, len(source), source.shape[1], group.size_px
                views.append(self._views(crop, shape, generator, first, batch))
        return views[0], views[1] if self.num_local else None

    def boxes(
        self, sizes_px: Tensor, *, generator: torch.Generator, first: int = 0, of: int | None = None
    ) -> list[Tensor]:
        """Draw the boxes of a batch of photographs, before they are decoded.

        Args:
            sizes_px: (B, 2) float32, height and width of each.
            generator, first, of: as for a call.

        Returns:
            (V, B, 4) of each group of views: top, left, height, width in px of the photograph.
        """
        whole = sizes_px.new_ones(len(sizes_px) if of is None else of, 2)
        whole[first : first + len(sizes_px)] = sizes_px
        found = []
        for group in self.groups:
            heights_px, widths_px = whole.repeat(group.num, 1).unbind(1)
            boxes = random_boxes(heights_px, widths_px, group.scale, self.ratio, generator=generator)
            found.append(boxes.view(group.num, -1, 4)[:, first : first + len(sizes_px)])
        return found

    @torch.no_grad()
    def finished(
        self,
        global_crops: Tensor,
        local_crops: Tensor | None,
        *,
        generator: torch.Generator,
        first: int = 0,
        of: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Flip, recolour and normalise crops that were cut by `boxes`: what a call does after its crops.

        Args:
            global_crops, local_crops: (V, B, C, s, s) uint8.
            generator, first, of: as for a call.

        Returns:
            As a call.
        """
        views = []
        with torch.autocast(global_crops.device.type, enabled=False):
            for crops in (global_crops, local_crops):
                if crops is not None:
                    batch = crops.shape[1] if of is None else of
                    views.append(self._views(_from_crops(crops), crops.shape[:4], generator, first, batch))
        return views[0], views[1] if len(views) > 1 else None

    @property
    def groups(self) -> list[ViewGroup]:
        """The kinds of views: global and, if there are any, local ones."""
        both = (
            ViewGroup(self.num_global, self.global_px, self.global_scale),
            ViewGroup(self.num_local, self.local_px, self.local_scale),
        )
        return [group for group in both if group.num]

    def _views(self, crop: Crop, shape: Sequence[int], generator: torch.Generator, first: int, batch: int) -> Tensor:
        """Finish one group of views (V, B, C, s) of the images from `first` on of a batch."""
        num, num_here, channels, size_px = shape
        out = torch.empty(num, num_here, 3, size_px, size_px, device=generator.device)
        draws = self._draw(num * batch, generator)
        host = _host_generator(generator)
        chunk = max(1, CHUNK_BYTES[generator.device.type] // (4 * channels * size_px**2))
        for view in range(num):
            for start in range(0, batch, chunk):
                order = torch.randperm(4, generator=host).tolist()
                low, high = max(start, first), min(start + chunk, first + num_here)
                if low < high:
                    here, drawn = slice(low - first, high - first), slice(view * batch + low, view * batch + high)
                    some = Draws(*(values[drawn] for values in draws))
                    images = self._recolour(crop(view, here, drawn, some.flip), some, order)
                    colour.normalise(images, self.mean, self.std, out=out[view, here])
        return out

    def _draw(self, num: int, generator: torch.Generator) -> Draws:
        probs = (self.flip_prob, self.jitter_prob, self.grey_prob, self.blur_prob, self.solarize_prob)
        chances = torch.rand(5, num, device=generator.device, generator=generator)
        flip, jitter, grey, blur, solarize = (chance < prob for chance, prob in zip(chances, probs, strict=True))
        spread = torch.rand(5, num, device=generator.device, generator=generator)
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [_between(u, max(0.0, 1 - x), 1 + x) for u, x in zip(spread, strengths, strict=False)]
        neutral = [torch.where(jitter, factor, 1.0) for factor in factors]
        turns = torch.where(jitter, _between(spread[3], -self.hue, self.hue), 0.0)
        sigma = _between(spread[4], *self.blur_sigma)
        return Draws(flip, torch.stack((*neutral, turns), dim=1), grey, blur, sigma, solarize)

    def _recolour(self, images: Tensor, draws: Draws, order: list[int]) -> Tensor:
        rgb = images.shape[1] == 3  # saturation, hue and grey change nothing in a grey image
        jitter = (
            (colour.brightness_, self.brightness > 0),
            (colour.contrast_, self.contrast > 0),
            (colour.saturation_, self.saturation > 0 and rgb),
            (colour.hue_, self.hue > 0 and rgb),
        )
        for index in order if self.jitter_prob else ():
            operation, wanted = jitter[index]
            if wanted:
                images = operation(images, draws.jitter[:, index])
        if self.grey_prob and rgb:
            images = colour.saturation_(images, 1 - draws.grey.to(images.dtype))
        if self.blur_prob:
            images = colour.gaussian_blur_some(images, draws.sigma, draws.blur)
        if self.solarize_prob:
            threshold = torch.where(draws.solarize, self.solarize_threshold / 255, torch.inf)
            images = colour.solarize_(images, threshold)
        return images


def _sides(num: int, images: Tensor) -> list[Tensor]:
    """Return heights and widths (num,) of images of one size."""
    return [torch.full((num,), float(side), device=images.device) for side in images.shape[2:]]


def _from_images(source: Tensor, boxes: Tensor, size_px: int) -> Crop:
    return lambda _, here, drawn, flip: crop_resize(source[here], boxes[drawn], size_px, flip=flip)


def _from_crops(crops: Tensor) -> Crop:
    def crop(view: int, here: slice, _: slice, flip: Tensor) -> Tensor:
        images = crops[view, here].to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return torch.where(flip[:, None, None, None], images.flip(3), images)

    return crop


def evaluation_view(
    pixels: Tensor,
    size_px: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Return the one deterministic view that probes see: the largest centred square, resized and normalised.

    Args:
        pixels: (B, C, H, W) uint8, C 1 or 3.
        size_px: side of the view.
        mean, std: of pixels in [0, 1].

    Returns:
        (B, 3, size_px, size_px) float32.
    """
    _check(pixels)
    out = torch.empty(len(pixels), 3, size_px, size_px, device=pixels.device)
    chunk = max(1, CHUNK_BYTES[pixels.device.type] // (4 * pixels.shape[1] * size_px**2))
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
        heights_px, widths_px = _sides(len(pixels), pixels)
        boxes = centre_boxes(heights_px, widths_px, (1.0, 1.0))
        for start in range(0, len(pixels), chunk):
            part = slice(start, start + chunk)
            colour.normalise(crop_resize(pixels[part], boxes[part], size_px), mean, std, out=out[part])
    return out


def _rules(views: Multicrop) -> dict[str, tuple[bool, str]]:
    """Every rule on the settings: whether it holds, and how it reads."""
    rules = {
        "num_global": (views.num_global >= 1, ">= 1"),
        "num_local": (views.num_local >= 0, ">= 0"),
    }
    for name in ("global_px", "local_px"):  # a reflected border needs more pixels than it is wide
        least = colour.BLUR_KERNEL_PX // 2 + 1
        rules[name] = (getattr(views, name) >= least, f">= {least}")
    for name in ("global_scale", "local_scale"):
        rules[name] = (_is_range(getattr(views, name), 1.0), "[low, high] with 0 < low <= high <= 1")
    for name in ("ratio", "blur_sigma"):
        rules[name] = (_is_range(getattr(views, name)), "[low, high] with 0 < low <= high")
    for name in ("flip_prob", "jitter_prob", "grey_prob", "blur_prob", "solarize_prob"):
        rules[name] = (0 <= getattr(views, name) <= 1, "in [0, 1]")
    for name in ("brightness", "contrast", "saturation"):
        rules[name] = (getattr(views, name) >= 0, ">= 0")
    rules["hue"] = (0 <= views.hue <= 0.5, "in [0, 0.5]")
    rules["solarize_threshold"] = (0 <= views.solarize_threshold <= 256, "in [0, 256]")
    rules["mean"] = (len(views.mean) == 3, "three numbers")
    rules["std"] = (len(views.std) == 3 and min(views.std, default=0) > 0, "three numbers > 0")
    return rules


def _is_range(value: tuple, highest: float = float("inf")) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= highest


def _check(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(f"pixels must be (B, 1 or 3, H, W) uint8, got {tuple(pixels.shape)} {pixels.dtype}")


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return uniform * (high - low) + low


def _host_generator(generator: torch.Generator) -> torch.Generator:
    """Return the generator of what the host must know without waiting for the device: the jitter orders."""
    if generator.device.type == "cpu":
        return generator
    state = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()  # seed and offset, kept on the host
    return torch.Generator().manual_seed(int.from_bytes(state[:7], "little"))
