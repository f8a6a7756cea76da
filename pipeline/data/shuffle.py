"""The order in which an epoch goes through the training images: random, and readable from a disk.

Legend: N images, K blocks (images that lie together on the disk).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from pipeline.data.packed import read_blocks
from pipeline.data.shards import Blocks


def shuffled(num_images: int, *, blocks: Blocks, window_gb: float, generator: torch.Generator) -> torch.Tensor:
    """Return the order of an epoch.

    A set that fits into the window is permuted. Of a larger one the blocks are permuted and laid on a line, each image
    moves from the start of its block forward by a uniform part of the window, and images come in the order of where
    they end up. So blocks come into use one after the other, each is done with one window later, and a batch is drawn
    from all blocks of a window. The first and the last batches of an epoch are drawn from fewer blocks: a window is
    not full there.

    Args:
        num_images: N.
        blocks: of the N images, in their order.
        window_gb: bytes of images, in 1e9, that are mixed with each other; what the system should be able to cache.
        generator: the only source of randomness, on the CPU.

    Returns:
        (N,) int64, a permutation.
    """
    assert num_images == int(blocks.num_images.sum()), f"{num_images} images, blocks of {int(blocks.num_images.sum())}"
    if int(blocks.num_bytes.sum()) <= window_gb * 1e9:
        return torch.randperm(num_images, generator=generator)
    permuted = torch.randperm(len(blocks.num_bytes), generator=generator)
    sizes = blocks.num_bytes[permuted]
    starts = torch.empty(len(sizes), dtype=torch.float64)
    starts[permuted] = (sizes.cumsum(0) - sizes).double()
    forward = torch.rand(num_images, generator=generator, dtype=torch.float64) * (window_gb * 1e9)
    return (starts.repeat_interleave(blocks.num_images) + forward).argsort(stable=True)


def build_shuffle(folder: str, *, window_gb: float) -> Callable[..., torch.Tensor]:
    """Return (number of images, generator=) -> order of an epoch, for the training split of a packed data set."""
    return partial(shuffled, blocks=read_blocks(folder, "train"), window_gb=window_gb)
