"""Pictures in arrays: npz and HDF5 files. Pickled objects are never loaded."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.catalogue import Arrays
from pipeline.errors import UserError
from pipeline.fetch import FetchError, shown
from pipeline.splits import Raw
from pipeline.validation import did_you_mean

BLOCK = 256  # pictures read at a time from HDF5
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def open_arrays(entry: Arrays, path: Path) -> Raw:
    """Open an npz or HDF5 file of pictures and labels.

    Raises:
        FetchError: a file of neither kind, a key it lacks.
        ValueError: pictures or labels of the wrong shape, type or range.
    """
    stored = _Stored(path)
    keys = {"train": (entry.images, entry.labels)}
    if entry.test_images:
        keys["test"] = (entry.test_images, entry.test_labels)
    labels, pictures = {}, {}
    for split, (images_key, labels_key) in keys.items():
        images, values = stored[images_key], np.asarray(stored[labels_key])
        labels[split] = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        _check_shapes(images_key, images, labels_key, labels[split], entry.channels_first)
        to_bytes = partial(_to_bytes, images_key, max_value=entry.max_value, channels_first=entry.channels_first)
        pictures[split] = partial(slices, images, f"{path.name}:{images_key}", to_bytes)
    origin = (shown(entry.url) if entry.url else path.name) + (f" sha256 {entry.sha256}" if entry.sha256 else "")
    return Raw(labels, pictures, entry.classes, origin)


def slices(images: Any, where: str, convert: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[np.ndarray, str]]:
    """Go through an array (or an HDF5 data set) of pictures, reading a block at a time."""
    for start in range(0, len(images), BLOCK):
        for offset, pixels in enumerate(convert(images[start : start + BLOCK])):
            yield pixels, f"{where}[{start + offset}]"


class _Stored:
    """The arrays of a file by key. An npz member is decompressed whole, an HDF5 data set stays on the disk."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, None
        try:
            if h5py.is_hdf5(path):
                self._file = h5py.File(path, "r")
                self.keys = [key for key, value in self._file.items() if isinstance(value, h5py.Dataset)]
            elif zipfile.is_zipfile(path):
                with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    self.keys = list(arrays.files)
            else:
                raise FetchError(f"{path} is neither npz nor HDF5, or damaged; see README.md for the formats")
        except _DAMAGED as error:
            raise FetchError(f"{path} is damaged ({error}); fetch the file again") from error

    def __getitem__(self, key: str) -> np.ndarray | h5py.Dataset:
        try:
            found = self._read(key)
        except KeyError:
            raise FetchError(f"unknown key {key!r} in {self.path}{did_you_mean(key, self.keys)}") from None
        except _DAMAGED as error:
            raise FetchError(f"key {key!r} of {self.path} is damaged ({error}); fetch the file again") from error
        except ValueError as error:
            raise FetchError(f"key {key!r} of {self.path} cannot be used: {error}; save it as plain numbers") from error
        if not isinstance(found, np.ndarray | h5py.Dataset) or found.shape is None:
            raise FetchError(f"key {key!r} of {self.path} is no array{did_you_mean(key, self.keys)}")
        return found

    def _read(self, key: str) -> Any:
        if self._file is not None:
            return self._file[key]
        with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]


def _check_shapes(images_key: str, images: Any, labels_key: str, labels: np.ndarray, channels_first: bool) -> None:
    shape = tuple(images.shape)
    channels = 1 if len(shape) == 3 else shape[1 if channels_first else -1] if len(shape) == 4 else 0
    if channels not in (1, 3, 4) or min(shape, default=0) < 1:
        layout = "(N, C, H, W)" if channels_first else "(N, H, W, C)"
        raise UserError(
            f"{images_key!r} must be (N, H, W) or {layout} with C 1, 3 or 4, got {shape}; see channels_first"
        )
    if labels.shape != shape[:1]:
        raise UserError(f"{labels_key!r} must hold one label a picture, ({shape[0]},), got {labels.shape}")
    if images.dtype.kind not in "buif":
        raise UserError(f"{images_key!r} must hold numbers, got {images.dtype}")


def _to_bytes(key: str, block: np.ndarray, *, max_value: float, channels_first: bool) -> np.ndarray:
    """Scale 0..max_value to 0..255 and put the channels last."""
    block = np.moveaxis(block, 1, -1) if channels_first and block.ndim == 4 else block
    if block.dtype == np.uint8 and max_value == 255:
        return np.ascontiguousarray(block)
    low, high = float(block.min()), float(block.max())
    if not 0 <= low <= high <= max_value:  # also false for NaN
        raise UserError(f"{key!r} must be within 0..max_value = {max_value:g}, got {low:g}..{high:g}; set max_value")
    return np.rint(block.astype(np.float64) * (255 / max_value)).astype(np.uint8)
