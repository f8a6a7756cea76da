"""Reading packed data sets: images as uint8 canvases of one size, in memory or decoded by loader workers.

Pretraining depends on this file, so nothing here downloads, packs or knows where a set came from (pipeline/packing.py).

Legend: N images of a split, B images of a batch, C channels (1 when the whole set is grey, else 3), H, W of the canvas.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

CHUNK = 64  # images a thread decodes at a time: small pictures take less than a hand-over costs


class ImageBatch(NamedTuple):
    """Images with their labels.

    pixels: (B, C, H, W) uint8. aspect: (B,) float32, original width/height over canvas width/height; 1 where the canvas
    is the picture itself. labels: (B,) int64 in 0..num_classes-1.
    """

    pixels: torch.Tensor
    aspect: torch.Tensor
    labels: torch.Tensor


def read_meta(folder: str | Path) -> dict:
    """Return meta.json of a packed data set, the file that is written last.

    Raises:
        FileNotFoundError: naming the command that makes the folder.
    """
    folder = Path(folder)
    remedy = f"make it with `dvc repro data/dvc.yaml:download@{folder.name}`"
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"data set {folder.name!r}: there is no {folder / 'meta.json'}; {remedy}") from None
    for split in meta["splits"].values():
        for file in split["files"]:
            if not (folder / file["name"]).is_file():
                raise FileNotFoundError(f"data set {folder.name!r} lacks {folder / file['name']}; {remedy}")
    return meta


class EncodedImages(torch.utils.data.Dataset):
    """One split of a packed data set; images are decoded when asked for.

    The canvas is the picture itself if all pictures of the set have one size of at most `load_px`. Else every picture
    is stretched to load_px x load_px (antialiased) and its `aspect` lets crops be drawn in the original geometry.

    Args:
        folder: data/<name>, written by the download stage.
        split: "train" or "test".
        load_px: side of the canvas in pixels, >= 1.

    Attributes:
        classes: class names; a label is an index into them.
        channels: 1 or 3.
        size_px: (height, width) of the canvas.
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
        self.size_px = _canvas(meta, load_px)
        self._files = [Path(folder) / file["name"] for file in meta["splits"][split]["files"]]
        self._chunks: list[pa.LargeBinaryArray] | None = None
        tables = [_read_table(file) for file in self._files]
        self.labels = torch.from_numpy(np.concatenate([table["label"].to_numpy() for table in tables]))
        self._starts = np.cumsum([0] + [len(chunk) for table in tables for chunk in table["image"].chunks])

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float, int]:
        """Return (pixels (C, H, W) uint8, aspect, label) of one image."""
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        pixels, aspect = self.decode(index)
        return torch.from_numpy(pixels), aspect, int(self.labels[index])

    def encoded(self, index: int) -> bytes:
        """Return the PNG or JPEG file of one image."""
        if self._chunks is None:  # also after unpickling in a loader worker
            self._chunks = [chunk for file in self._files for chunk in _read_table(file)["image"].chunks]
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._chunks[chunk][index - int(self._starts[chunk])].as_py()

    def decode(self, index: int) -> tuple[np.ndarray, float]:
        """Return (pixels (C, H, W) uint8, aspect) of one image as numpy knows them."""
        height, width = self.size_px
        mode = "L" if self.channels == 1 else "RGB"
        with Image.open(io.BytesIO(self.encoded(index))) as image:
            aspect = (image.width / image.height) / (width / height)
            image.draft(mode, (width, height))  # a JPEG much larger than the canvas is decoded at 1/2, 1/4 or 1/8
            image = image.convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels = np.array(image)  # a copy: torch wants writable memory
        return (pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))), aspect

    def __getstate__(self) -> dict:
        """Leave the memory maps behind: a worker opens its own."""
        return {**self.__dict__, "_chunks": None}


def _read_table(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _canvas(meta: dict, load_px: int) -> tuple[int, int]:
    (min_w, max_w), (min_h, max_h) = meta["width_px"], meta["height_px"]
    one_size = min_w == max_w and min_h == max_h and max(max_w, max_h) <= load_px
    return (max_h, max_w) if one_size else (load_px, load_px)


def in_memory(images: EncodedImages) -> ImageBatch:
    """Decode a whole split with all cores.

    Returns:
        `ImageBatch` of the N images, in order.
    """
    pixels = torch.empty(len(images), images.channels, *images.size_px, dtype=torch.uint8)
    aspect = torch.empty(len(images), dtype=torch.float32)

    into, aspects = pixels.numpy(), aspect.numpy()  # the same memory; a tensor takes longer to index

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(images))):
            into[index], aspects[index] = images.decode(index)

    images.encoded(0)  # opens the files once, before the threads share them
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(0, len(images), CHUNK)):
            pass
    return ImageBatch(pixels, aspect, images.labels)


def open_split(folder: str | Path, split: str, *, load_px: int, memory_gb: float) -> ImageBatch | EncodedImages:
    """Open one split of a packed data set, in memory if its pixels fit.

    Args:
        folder, split, load_px: as for `EncodedImages`.
        memory_gb: most memory to use for pixels, in 1e9 bytes.
    """
    images = EncodedImages(folder, split, load_px=load_px)
    num_bytes = len(images) * images.channels * images.size_px[0] * images.size_px[1]
    return in_memory(images) if num_bytes <= memory_gb * 1e9 else images


def batches(
    images: ImageBatch | EncodedImages,
    order: torch.Tensor,
    batch_size: int,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    drop_last: bool = False,
) -> Iterator[ImageBatch]:
    """Yield the images of `order`, `batch_size` at a time, on `device`.

    The result does not depend on num_workers, and no global random state is touched.

    Args:
        images: a split; one in memory may be on any device.
        order: (M,) int64 indices of images; repeats are allowed.
        batch_size: >= 1.
        num_workers: decoding processes for images that are not in memory.
        device: where the batches are wanted.
        drop_last: leave out a last batch that is not full.
    """
    if isinstance(images, ImageBatch):
        for chosen in order.to(images.pixels.device).split(batch_size):
            if len(chosen) == batch_size or not drop_last:
                yield ImageBatch(*(part.index_select(0, chosen).to(device, non_blocking=True) for part in images))
        return
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=batch_size,
        sampler=order.tolist(),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.device(device).type == "cuda",
        drop_last=drop_last,
        generator=torch.Generator(),  # the loader draws a number for its workers; not from the global generator
    )
    for batch in loader:
        yield ImageBatch(*(part.to(device, non_blocking=True) for part in batch))


def _collate(items: list[tuple[torch.Tensor, float, int]]) -> ImageBatch:
    pixels, aspect, labels = zip(*items, strict=True)
    return ImageBatch(torch.stack(pixels), torch.tensor(aspect, dtype=torch.float32), torch.tensor(labels))
