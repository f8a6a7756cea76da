"""The Arrow files of one split, read by position: pages of a memory map would count as this process's memory and grow.

Legend: N pictures of a split, K blocks (Arrow record batches, pictures that lie together on the disk).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch


class Blocks(NamedTuple):
    """Blocks of a split in the order of its pictures: num_images (K,) int64, num_bytes (K,) int64."""

    num_images: torch.Tensor
    num_bytes: torch.Tensor


class Shards:
    """Pictures of a split by index. Files are opened at the first read, by every process for itself.

    Args:
        paths: Arrow files with the columns image and label, as pipeline/sources/packing.py writes them.

    Attributes:
        labels: (N,) int64.
        blocks: how many pictures and bytes lie together.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read labels and places, and let go of the files."""
        self._paths = list(paths)
        self._handles: list[int] = []
        files = [_read_index(path) for path in self._paths]
        self._starts, self._lengths = (np.concatenate([part[key] for file in files for part in file]) for key in (0, 1))
        self.labels = torch.from_numpy(np.concatenate([part[2] for file in files for part in file]))
        num_images = [len(part[0]) for file in files for part in file]
        num_bytes = [int(part[1].sum()) for file in files for part in file]
        self.blocks = Blocks(torch.tensor(num_images), torch.tensor(num_bytes))
        self._block_ends = np.cumsum(num_images)
        self._file_ends = np.cumsum([sum(len(part[0]) for part in file) for file in files])

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Return the PNG or JPEG files of some pictures.

        Raises:
            OSError: the file on the disk ends before the picture does.
        """
        files = np.searchsorted(self._file_ends, indices, side="right").tolist()
        return list(map(self._read, files, self._starts[indices].tolist(), self._lengths[indices].tolist()))

    def _read(self, file: int, start: int, length: int) -> bytes:
        content = os.pread(self._opened()[file], length, start)
        if len(content) != length:
            raise OSError(f"{self._paths[file]} was cut while it was in use; make its data set anew")
        return content

    def block_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the block of each picture: (M,) int64 for (M,) int64."""
        return torch.from_numpy(np.searchsorted(self._block_ends, indices.numpy(), side="right"))

    def read_ahead(self, block: int) -> None:
        """Let the system read a whole block at one go, in the background, where it can be asked to."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        last = int(self._block_ends[block]) - 1
        first = last + 1 - int(self.blocks.num_images[block])
        start, end = int(self._starts[first]), int(self._starts[last] + self._lengths[last])
        file = int(np.searchsorted(self._file_ends, first, side="right"))
        os.posix_fadvise(self._opened()[file], start, end - start, os.POSIX_FADV_WILLNEED)

    def _opened(self) -> list[int]:
        if not self._handles:
            self._handles = [os.open(path, os.O_RDONLY) for path in self._paths]
        return self._handles

    def __getstate__(self) -> dict:
        """Leave the open files behind: another process opens its own."""
        return {**self.__dict__, "_handles": []}

    def __del__(self) -> None:
        """Close the files."""
        for handle in self.__dict__.get("_handles", []):
            os.close(handle)


def _read_index(path: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return where each picture starts in the file, its length, and its label, block by block."""
    whole = pa.memory_map(str(path)).read_buffer()
    blocks = pa.ipc.open_file(whole)
    return [_places(blocks.get_batch(number), whole.address) for number in range(blocks.num_record_batches)]


def _places(block: pa.RecordBatch, origin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, ends, content = block["image"].buffers()  # of a large_binary array: validity, offsets, bytes
    offsets = np.frombuffer(ends, np.int64, len(block) + 1)
    return content.address - origin + offsets[:-1], np.diff(offsets), block["label"].to_numpy().copy()
