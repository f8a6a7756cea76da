"""One picture on its way to the disk: decoded, checked, upright, grey or RGB with 8 bits."""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_UPRIGHT = dict(enumerate(("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE"), start=2)) | dict(
    enumerate(("ROTATE_270", "TRANSVERSE", "ROTATE_90"), start=6)
)
"""What undoes EXIF's Orientation 2..8."""


class Picture(NamedTuple):
    """One labelled picture on its way into a packed data set.

    content: an encoded file (bytes), the path of one, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or
    (H, W, 4); an exception says why there is none. label: 0..num_classes-1. where: what to call it in an error, such as
    its file name.
    """

    content: bytes | Path | Image.Image | np.ndarray | Exception
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
    constant: int | None  # its colour, 0xRRGGBB or grey, if it has one alone
    brightest: int  # value of any channel, 0..255
    changes: list[str]


def prepare(picture: Picture) -> Prepared:
    """Decode a picture, check it and encode it for storage; a plain JPEG or PNG file is kept byte for byte.

    Pixels are what counts: metadata that cannot be read are left out.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: it cannot be used; the message says why.
    """
    content, changes = picture.content, []
    if isinstance(content, Exception):
        raise content
    if isinstance(content, Path):
        content = content.read_bytes()
    if isinstance(content, bytes):
        image, changes = _decode(content)
    else:
        image = Image.fromarray(_squeezed(content)) if isinstance(content, np.ndarray) else content
        image.load()
    plain, further = to_grey_or_rgb(image)
    changes += further
    extrema = plain.getextrema() if plain.mode == "RGB" else [plain.getextrema()]
    keep = isinstance(content, bytes) and not changes and image.format in ("JPEG", "MPO", "PNG")
    fingerprint = hashlib.blake2b(f"{plain.mode}{plain.size}".encode() + plain.tobytes(), digest_size=8).digest()
    return Prepared(
        content if keep else _png(plain),
        int(picture.label),
        *plain.size,
        plain.mode == "L",
        int.from_bytes(fingerprint, "little"),
        int(bytes(low for low, _ in extrema).hex(), 16) if all(low == high for low, high in extrema) else None,
        max(high for _, high in extrema),
        changes,
    )


def _decode(content: bytes) -> tuple[Image.Image, list[str]]:
    """Decode a file whole, so that a truncated one is noticed; of a PNG whose metadata are refused, its pixels."""
    if not content:
        raise ValueError("it has zero bytes")
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return image, []
    except Exception as error:  # decoders trip over damaged files in many ways
        if content.startswith(_PNG):
            with suppress(Exception):
                image = Image.open(io.BytesIO(_pixels_alone(content)))
                image.load()
                return image, ["metadata left out"]
        if isinstance(error, UnidentifiedImageError):
            told = "cannot identify image file: no format that is known here, or damaged where it begins"
            raise ValueError(told) from None
        raise


def _pixels_alone(content: bytes) -> bytes:
    """Return a PNG without the chunks that do not bear on its pixels: text, colour profiles, dates."""
    kept, start = [_PNG], len(_PNG)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in _PIXEL_CHUNKS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


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
    if undo := _UPRIGHT.get(_orientation(image)):
        image = image.transpose(Image.Transpose[undo])
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


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # Pillow's reader trips over damaged EXIF in many ways
        return 1
