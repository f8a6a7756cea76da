"""Packed data sets as they lie on the disk: labels at once, pictures decoded when asked for.

Legend: N images of a split, B images of a batch, C channels (1 when the whole set is grey, else 3), H x W px
of pictures of one size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.data.shards import Blocks, Shards
from pipeline.runtime.project import remake

MODES = {1: "L", 3: "RGB"}  # of Pillow, by number of channels
READ_AT_ONCE = 256  # files: reading and decoding by turns slows both (reports/LOG.md, 2026-11-22)


class ImageBatch(NamedTuple):
    """Images of one size with their labels.

    pixels: (B, C, H, W) uint8. labels: (B,) int64 in 0..num_classes-1.
    """

    pixels: torch.Tensor
    labels: torch.Tensor


def read_meta(folder: str | Path) -> dict:
    """Return meta.json of a packed data set, the file that is written last.

    Raises:
        FileNotFoundError: naming the command that makes the folder.
    """
    folder = Path(folder)
    remedy = f"make it with `{remake(folder)}`"
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"data set {folder.name!r}: there is no {folder / 'meta.json'}; {remedy}") from None
    for split in meta["splits"].values():
        for file in split["files"]:
            if not (folder / file["name"]).is_file():
                raise FileNotFoundError(f"data set {folder.name!r} lacks {folder / file['name']}; {remedy}")
    return meta


class PackedSplit:
    """One split of a packed data set; images are decoded when asked for.

    If all pictures of the set have one size of at most `load_px`, they are read whole. Else they are photographs, of
    which views are cut at their own resolution (data/photographs.py).

    Args:
        folder: data/<name>, written by the download stage.
        split: "train" or "test".
        load_px: largest side of pictures that are read whole, px, >= 1.

    Attributes:
        classes: class names; a label is an index into them.
        channels: 1 or 3.
        size_px: (height, width) of pictures that are read whole; None: photographs.
        labels: (N,) int64.

    Raises:
        FileNotFoundError: if the folder is missing or incomplete.
        ValueError: if the split does not exist or load_px < 1.
    """

    def __init__(self, folder: str | Path, split: str, *, load_px: int) -> None:
        """Open the files and read the labels; see the class for the arguments."""
        meta = read_meta(folder)
        if split not in meta["splits"]:
            raise ValueError(f"split must be one of {', '.join(meta['splits'])}, got {split!r}")
        if load_px < 1:
            raise ValueError(f"load_px must be >= 1, got {load_px}")
        self.split, self.classes, self.channels = split, meta["classes"], meta["channels"]
        self.size_px = common_size(meta, load_px)
        self.shards = _open_shards(folder, meta, split)
        self.labels = self.shards.labels

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return (pixels (C, H, W) uint8, label) of one image, at its own size."""
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        pixels = torch.tensor(decode(self.encoded(index), self.channels))
        return pixels.view(*pixels.shape[:2], self.channels).movedim(2, 0), int(self.labels[index])

    def decode_into(self, pixels: torch.Tensor, indices: Sequence[int] | np.ndarray) -> None:
        """Decode images that are read whole into `pixels` (B, H, W, C) uint8, the order in which files have them."""
        places = pixels.numpy()  # the same memory; a tensor takes longer to index
        for first in range(0, len(indices), READ_AT_ONCE):
            for place, file in enumerate(self.shards.read(indices[first : first + READ_AT_ONCE]), start=first):
                places[place] = decode(file, self.channels).reshape(places.shape[1:])

    def encoded(self, index: int) -> bytes:
        """Return the PNG or JPEG file of one image."""
        return self.shards.read([index])[0]


def decode(file: bytes, channels: int) -> np.ndarray:
    """Return the pixels of a PNG or JPEG file: (H, W) uint8 for one channel, (H, W, 3) for three."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(in_mode(image, MODES[channels]))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode of Pillow; `convert` would copy one that is in it."""
    return image if image.mode == mode else image.convert(mode)


def common_size(meta: dict, load_px: int) -> tuple[int, int] | None:
    """Return (height, width) of pictures that are read whole: all of one size, at most `load_px`; None: photographs."""
    (min_w, max_w), (min_h, max_h) = meta["width_px"], meta["height_px"]
    one_size = min_w == max_w and min_h == max_h and max(max_w, max_h) <= load_px
    return (max_h, max_w) if one_size else None


def _open_shards(folder: str | Path, meta: dict, split: str) -> Shards:
    return Shards([Path(folder) / file["name"] for file in meta["splits"][split]["files"]])


def read_blocks(folder: str | Path, split: str) -> Blocks:
    """Return how many images and bytes of a split lie together on the disk, whether or not it is read into memory."""
    return _open_shards(folder, read_meta(folder), split).blocks
