"""One picture on its way to the disk: decoded, checked, upright, grey or RGB with 8 bits."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps


class Picture(NamedTuple):
    """One labelled picture on its way into a packed data set.

    content: an encoded file (bytes), the path of one, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or
    (H, W, 4). label: 0..num_classes-1. where: what to call it in an error, such as its file name.
    """

    content: bytes | Path | Image.Image | np.ndarray
    label: int
    where: str


class Prepared(NamedTuple):
    """A picture as it is stored."""

    file: bytes
    label: int
    width: int
    height: int
    is_grey: bool
    fingerprint: int  # of the pixels
    changes: list[str]


def prepare(picture: Picture) -> Prepared:
    """Decode a picture, check it and encode it for storage; a plain JPEG or PNG file is kept byte for byte.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: it cannot be used; the message says why.
    """
    content = picture.content
    if isinstance(content, Path):
        content = content.read_bytes()
    if isinstance(content, bytes):
        if not content:
            raise ValueError("it has zero bytes")
        image = Image.open(io.BytesIO(content))
    else:
        image = Image.fromarray(_squeezed(content)) if isinstance(content, np.ndarray) else content
    image.load()  # a truncated file is noticed here
    plain, changes = to_grey_or_rgb(image)
    keep = isinstance(content, bytes) and not changes and image.format in ("JPEG", "MPO", "PNG")
    fingerprint = hashlib.blake2b(f"{plain.mode}{plain.size}".encode() + plain.tobytes(), digest_size=8).digest()
    return Prepared(
        content if keep else _png(plain),
        int(picture.label),
        *plain.size,
        plain.mode == "L",
        int.from_bytes(fingerprint, "little"),
        changes,
    )


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise ValueError(f"an array of pictures must be uint8, got {pixels.dtype}")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def to_grey_or_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Bring a decoded picture to mode L or RGB, upright.

    Transparency is put on white. 16 bits are taken to fill 0..65535. Of an animation the first frame stays.

    Returns:
        The picture and what had to be done to it; [] if it was plain already.

    Raises:
        ValueError: a mode without a range of its own (32-bit integers, floats).
    """
    changes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: one JPEG with a preview behind it
        changes.append("first frame of an animation")
    if image.getexif().get(0x0112, 1) != 1:  # 0x0112: Orientation
        image = ImageOps.exif_transpose(image)
        changes.append("turned as its EXIF says")
    mode = image.mode
    if image.has_transparency_data:
        changes.append("transparency put on white")
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        return image.convert("L" if mode in ("L", "LA", "La", "1") else "RGB"), changes
    if mode.startswith("I;16"):
        changes.append("16 bits to 8")
        pixels = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535  # rounded
        return Image.fromarray(pixels.astype(np.uint8)), changes
    if mode in ("I", "F"):
        raise ValueError(f"mode {mode} (32 bits a pixel) has no known white; save it with 8 or 16 bits")
    if mode not in ("L", "RGB"):
        changes.append(f"{mode} to {'L' if mode == '1' else 'RGB'}")
        image = image.convert("L" if mode == "1" else "RGB")
    return image, changes
