"""Reading packed data sets: images as uint8 canvases of one size, in memory or decoded by loader workers.

Pretraining depends on this file, so nothing here downloads, packs or knows where a set came from (pipeline/packing.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from pipeline.encoded import EncodedImages, ImageBatch
from pipeline.errors import UserError
from pipeline.shards import Shards

CHUNK = 64  # images a thread decodes at a time: small pictures take less than a hand-over costs
AHEAD = 2  # batches of each worker that are decoded or under way


def in_memory(images: EncodedImages) -> ImageBatch:
    """Decode a whole split with all cores.

    Returns:
        `ImageBatch` of the N images, in order.
    """
    pixels = torch.empty(len(images), images.channels, *images.size_px, dtype=torch.uint8)
    aspect = torch.empty(len(images), dtype=torch.float32)

    def fill(start: int) -> None:
        chosen = range(start, min(start + CHUNK, len(images)))
        aspect[start : chosen.stop] = torch.from_numpy(images.decode_into(pixels[start : chosen.stop], chosen))

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
            if len(chosen) == batch_size or (len(chosen) and not drop_last):
                yield ImageBatch(*(part.index_select(0, chosen).to(device, non_blocking=True) for part in images))
        return
    chosen = _chosen(images.shards, order, batch_size, drop_last)
    decoded = _by_workers(images, chosen, num_workers, torch.device(device)) if num_workers else _here(images, chosen)
    for pixels, aspect, indices in decoded:
        parts = pixels, torch.from_numpy(aspect), images.labels[indices]
        yield ImageBatch(*(part.to(device, non_blocking=True) for part in parts))


_Decoded = Iterator[tuple[torch.Tensor, np.ndarray, torch.Tensor]]  # pixels, aspects, indices


def _here(images: EncodedImages, chosen: Iterator[torch.Tensor]) -> _Decoded:
    for indices in chosen:
        pixels = torch.empty(len(indices), images.channels, *images.size_px, dtype=torch.uint8)
        yield pixels, images.decode_into(pixels, indices.numpy()), indices


def _by_workers(
    images: EncodedImages, chosen: Iterator[torch.Tensor], num_workers: int, device: torch.device
) -> _Decoded:
    """Decode in other processes, whichever is free, into memory that is shared with them and used again and again.

    torch's DataLoader takes fresh memory for every batch; to have the system clear and map its pages took about half as
    long as to decode small pictures (measured: reports/LOG.md, 2026-11-22).
    """
    first = next(chosen, None)
    if first is None:
        return
    num_slots = AHEAD * num_workers + 2  # a caller holds one batch, or two while it takes the next
    slots = torch.empty(num_slots, len(first), images.channels, *images.size_px, dtype=torch.uint8).share_memory_()
    jobs, free, ahead = chain([first], chosen), deque(range(num_slots)), deque()
    pool = ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(images, slots))
    try:
        while True:
            for indices in islice(jobs, min(AHEAD * num_workers - len(ahead), len(free))):
                slot = free.popleft()
                ahead.append((pool.submit(_decode_into_slot, slot, indices.numpy()), slot, indices))
            if not ahead:
                return
            future, slot, indices = ahead.popleft()
            aspect, pixels = future.result(), slots[slot, : len(indices)]
            if free and device.type == "cpu":
                pixels = _lent(pixels, partial(free.append, slot))
            else:
                pixels = pixels.clone() if device.type == "cpu" else pixels.pin_memory()
                free.append(slot)
            yield pixels, aspect, indices
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decodes images was killed, likely for want of memory; lower pretrain.loader.num_workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _lent(pixels: torch.Tensor, give_back: Callable[[], None]) -> torch.Tensor:
    """Return the same memory as a tensor of its own; `give_back` is called when it and all views of it are gone."""
    memory = pixels.numpy()
    weakref.finalize(memory, give_back).atexit = False
    return torch.from_numpy(memory)


_worker: tuple[EncodedImages, torch.Tensor]  # in a worker: what it reads from, and the slots


def _start_worker(images: EncodedImages, slots: torch.Tensor) -> None:
    global _worker
    _worker = images, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to every process; the one that asked for us decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _decode_into_slot(slot: int, indices: np.ndarray) -> np.ndarray:
    images, slots = _worker
    return images.decode_into(slots[slot], indices)


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
