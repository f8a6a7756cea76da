"""Decoding into slots: shared memory that is made once and used again, batch after batch.

New memory for every batch costs most of what decoding does: every page of it is cleared and mapped (reports/LOG.md,
2026-11-30). Through the pipes of the DataLoader go the jobs, and numbers of slots.
"""

from __future__ import annotations

import math
import traceback
import weakref
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.packed import PackedSplit
from pipeline.data.photographs import Cut, crop_shapes, cut_photographs
from pipeline.runtime.errors import UserError

MOST_LENT = 2  # batches with their user: that of this step, and the next one before it takes its place


class Job(NamedTuple):
    """The images of a batch, its number in the epoch, what is cut of photographs, and the slot to decode into."""

    indices: np.ndarray
    number: int
    cut: Cut | None
    slot: int = -1


class Jobs:
    """The jobs of the epoch under way, and their slots.

    A slot is in use from the time its job is given out until nothing refers to its pixels. Who keeps more than
    `MOST_LENT` batches gets copies, so slots cannot run out.

    Args:
        num_ahead: most jobs that are given out and not done; 0: one at a time, in this process.
        num_bytes: of the largest batch.

    Raises:
        UserError: there is too little shared memory.
    """

    def __init__(self, num_ahead: int, num_bytes: int) -> None:
        """Make the slots; workers that start later share them."""
        self.slots = torch.empty(num_ahead + MOST_LENT + 1, num_bytes, dtype=torch.uint8)
        try:
            if num_ahead:
                self.slots.share_memory_()
        except RuntimeError as error:
            raise UserError(
                f"there is too little shared memory for {len(self.slots)} batches ({self.slots.nbytes / 1e6:.0f} MB); "
                "lower pretrain.loader.num_workers, or give a container more (docker run --shm-size)"
            ) from error
        self.planned: Iterator[Job] = iter(())
        self._given_out: deque[Job] = deque()
        self._in_use: set[int] = set()

    def __iter__(self) -> Iterator[Job]:
        """Give out the jobs; before, torch waits until the workers have done what was left of another epoch."""
        self._in_use.difference_update(job.slot for job in self._given_out)
        self._given_out.clear()
        for planned in self.planned:
            job = planned._replace(slot=min(set(range(len(self.slots))) - self._in_use))
            self._in_use.add(job.slot)
            self._given_out.append(job)
            yield job

    def done(self) -> tuple[Job, Tensor]:
        """Return the first of the jobs that were given out, and its pixels (bytes,)."""
        job = self._given_out.popleft()
        pixels = self.slots[job.slot]
        if len(self._in_use) - len(self._given_out) > MOST_LENT:
            self._in_use.remove(job.slot)
            return job, pixels.clone()
        array = pixels.numpy()  # alive until the last tensor that shares its memory is gone
        weakref.finalize(array, self._in_use.remove, job.slot)
        return job, torch.from_numpy(array)


class Decoder(Dataset):
    """What a worker does. An error is returned, not raised: torch would put its own words around the message."""

    def __init__(self, images: PackedSplit, slots: Tensor) -> None:
        """Take what a worker gets when it starts."""
        self.images, self.slots = images, slots

    def __getitem__(self, job: Job) -> bool | Exception:
        """Fill the slot of a job."""
        images = self.images
        try:
            pixels = parts(images, job, self.slots[job.slot])
            if images.size_px:
                images.decode_into(pixels[0], job.indices)
            else:
                cut_photographs(images.shards.read(job.indices), images.channels, job.cut, job.number, pixels)
            return True
        except Exception as error:
            error.add_note(traceback.format_exc())
            return error


def num_bytes(images: PackedSplit, num_images: int, cut: Cut | None) -> int:
    """Return the size of a batch."""
    return sum(map(math.prod, _shapes(images, num_images, cut)))


def parts(images: PackedSplit, job: Job, pixels: Tensor) -> list[Tensor]:
    """Return the images (B, H, W, C) of a job, or each group of crops (V, B, s, s, C), as they lie in its slot."""
    shapes = _shapes(images, len(job.indices), job.cut)
    sizes = [math.prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(pixels[: sum(sizes)].split(sizes), shapes, strict=True)]


def _shapes(images: PackedSplit, num_images: int, cut: Cut | None) -> list[tuple[int, ...]]:
    if images.size_px:
        return [(num_images, *images.size_px, images.channels)]
    return crop_shapes(cut, num_images, images.channels)
