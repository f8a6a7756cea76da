"""Reading packed data sets: images as uint8 canvases of one size, in memory or decoded by loader workers.

Pretraining depends on this file, so nothing here downloads, packs or knows where a set came from (that is sources/).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pipeline.data.decoding import decoded_by_workers
from pipeline.data.packed import READ_AT_ONCE, ImageBatch, PackedSplit
from pipeline.data.shards import Shards


def in_memory(images: PackedSplit) -> ImageBatch:
    """Decode a whole split with all cores.

    Returns:
        `ImageBatch` of the N images, in order.
    """
    pixels = torch.empty(len(images), images.channels, *images.size_px, dtype=torch.uint8)
    aspect = torch.empty(len(images), dtype=torch.float32)

    def fill(start: int) -> None:
        chosen = range(start, min(start + READ_AT_ONCE, len(images)))
        aspect[start : chosen.stop] = torch.from_numpy(images.decode_into(pixels[start : chosen.stop], chosen))

    images.encoded(0)  # opens the files once, before the threads share them
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(0, len(images), READ_AT_ONCE)):
            pass
    return ImageBatch(pixels, aspect, images.labels)


def open_split(folder: str | Path, split: str, *, load_px: int, memory_gb: float) -> ImageBatch | PackedSplit:
    """Open one split of a packed data set, in memory if its pixels fit.

    Args:
        folder, split, load_px: as for `PackedSplit`.
        memory_gb: most memory to use for pixels, in 1e9 bytes.
    """
    images = PackedSplit(folder, split, load_px=load_px)
    num_bytes = len(images) * images.channels * images.size_px[0] * images.size_px[1]
    return in_memory(images) if num_bytes <= memory_gb * 1e9 else images


def batches(
    images: ImageBatch | PackedSplit,
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
            if len(chosen) == batch_size or (len(chosen) and not drop_last):
                yield ImageBatch(*(part.index_select(0, chosen).to(device, non_blocking=True) for part in images))
        return
    chosen, device = _chosen(images.shards, order, batch_size, drop_last), torch.device(device)
    decoded = decoded_by_workers(images, chosen, num_workers, device) if num_workers else _here(images, chosen)
    for pixels, aspect, indices in decoded:
        parts = pixels, torch.from_numpy(aspect), images.labels[indices]
        yield ImageBatch(*(part.to(device, non_blocking=True) for part in parts))


def _here(
    images: PackedSplit, chosen: Iterator[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, np.ndarray, torch.Tensor]]:
    for indices in chosen:
        pixels = torch.empty(len(indices), images.channels, *images.size_px, dtype=torch.uint8)
        yield pixels, images.decode_into(pixels, indices.numpy()), indices


def _chosen(shards: Shards, order: torch.Tensor, batch_size: int, drop_last: bool) -> Iterator[torch.Tensor]:
    """Yield the images of each batch; blocks of which most images are wanted are read whole when the first one is.

    Batches are asked for before their turn comes, so the disk is ahead of the decoders.
    """
    blocks = shards.block_of(order)
    wanted = torch.bincount(blocks, minlength=len(shards.blocks.num_images)) * 2 > shards.blocks.num_images
    for chosen, touched in zip(order.split(batch_size), blocks.split(batch_size), strict=True):
        if len(chosen) == batch_size or (len(chosen) and not drop_last):
            for block in sorted(set(touched[wanted[touched]].tolist())):
                shards.read_ahead(block)
            wanted[touched] = False
            yield chosen
