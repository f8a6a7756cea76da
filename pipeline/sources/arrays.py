"""Pictures in arrays: npz and HDF5 files. Pickled objects are never loaded."""

from __future__ import annotations

import errno
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pipeline.catalogue.datasets import Arrays
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError, did_you_mean, together
from pipeline.sources.archives import check_members
from pipeline.sources.file_kinds import check_readable, mistaken
from pipeline.sources.splits import Account, RawDataset
from pipeline.sources.transfer import FetchError, fetch_anew, shown
from pipeline.sources.value_range import ValueRange, spelt, white_of

BLOCK = 256  # pictures read at a time from HDF5
CHANNELS = {1: "grey", 3: "colour", 4: "colour and opacity (RGBA)"}
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def open_arrays(entry: Arrays, path: Path) -> RawDataset:
    """Open an npz or HDF5 file of pictures and labels.

    Raises:
        UserError: a file of neither kind, a key it lacks, pictures or labels of the wrong shape, type or range; all
            that is wrong with the arrays at once.
    """
    check_readable(path)
    stored = _Stored(path, is_fetched=entry.url is not None)
    keys = {"train": (entry.images, entry.labels)}
    if entry.test_images:
        keys["test"] = (entry.test_images, entry.test_labels)
    account, labels, opened, faults = Account(), {}, {}, []
    for split, (images_key, labels_key) in keys.items():
        try:
            images, labels[split] = stored.images(images_key), stored.labels(labels_key)
            channels_first = _check_shapes(images_key, images, labels_key, labels[split], entry.channels_first)
            opened[split] = _Images(images_key, images, channels_first, _range(images_key, images))
        except UserError as error:
            faults.append(str(error))
        except _DAMAGED as error:
            faults.append(str(stored.damaged(f"key {images_key!r} of ", error)))
    whites = _whites(list(opened.values()), entry.max_value, faults)
    if faults:
        raise FetchError(together(list(dict.fromkeys(faults))))
    pictures = {}
    for split, images in opened.items():
        white = whites[images.found.dtype]
        account.notes.append(_told(images, white, entry.max_value))
        account.num_found += len(images.array)
        to_bytes = partial(_to_bytes, white=white, channels_first=images.channels_first)
        pictures[split] = partial(slices, images.array, f"{path.name}:{images.key}", to_bytes)
    if unused := [key for key in stored.keys if key not in {key for pair in keys.values() for key in pair}]:
        account.notes.append(f"arrays that are not used: {', '.join(unused[:10])}{', ...' if len(unused) > 10 else ''}")
    origin = (shown(entry.url) if entry.url else path.name) + (f" sha256 {entry.sha256}" if entry.sha256 else "")
    return RawDataset(labels, pictures, entry.classes, origin, account)


class _Images(NamedTuple):
    """An array of pictures and what it is taken for."""

    key: str
    array: np.ndarray | h5py.Dataset
    channels_first: bool
    found: ValueRange


def _whites(opened: list[_Images], max_value: float | None, faults: list[str]) -> dict[np.dtype, float]:
    """Return the white of each type of numbers: one for all splits, of which one may be darker."""
    whites = {}
    for dtype in dict.fromkeys(images.found.dtype for images in opened):
        alike = [images for images in opened if images.found.dtype == dtype]
        found = ValueRange(
            float(np.min([images.found.low for images in alike])),
            float(np.max([images.found.high for images in alike])),
            dtype,
        )
        try:
            whites[dtype] = white_of(" and ".join(images.key for images in alike), found, max_value)
        except UserError as error:
            faults.append(str(error))
    return whites


def _told(images: _Images, white: float, max_value: float | None) -> str:
    shape = tuple(images.array.shape)
    by = "max_value" if max_value else "by type and range; max_value changes it"
    return (
        f"{images.key} {shape}: {_layout(shape, images.channels_first)}, values {images.found}, "
        f"taken as 0..{spelt(white)} ({by})"
    )


def slices(images: Any, where: str, convert: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[np.ndarray, str]]:
    """Go through an array (or an HDF5 data set) of pictures, reading a block at a time."""
    for start in range(0, len(images), BLOCK):
        for offset, pixels in enumerate(convert(images[start : start + BLOCK])):
            yield pixels, f"{where}[{start + offset}]"


class _Stored:
    """The arrays of a file by key. An npz member is decompressed whole, an HDF5 data set stays on the disk."""

    def __init__(self, path: Path, *, is_fetched: bool) -> None:
        self.path, self._file, self._is_fetched = path, None, is_fetched
        try:
            if h5py.is_hdf5(path):
                self._file = _open_hdf5(path)
                self.keys = [key for key, value in self._file.items() if isinstance(value, h5py.Dataset)]
            elif zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    check_members(path, archive.infolist())
                with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    self.keys = list(arrays.files)
            else:
                raise FetchError(mistaken(path) or f"{path} is neither npz nor HDF5; see README.md for the formats")
        except _DAMAGED as error:
            raise self.damaged("", error) from error

    def damaged(self, what: str, error: Exception) -> FetchError:
        """Return what to tell of a file that is cut or was changed."""
        return FetchError(f"{what}{self.path} is damaged ({error}); {fetch_anew(self.path, self._is_fetched)}")

    def images(self, key: str) -> np.ndarray | h5py.Dataset:
        """Return an array of pictures."""
        try:
            return self._array(key)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise FetchError(
                f"{key!r} in {self.path} cannot be used: it holds pickled objects, which are never loaded; save it as "
                "plain numbers of one shape, pictures of unequal sizes in a folder per class"
            ) from error

    def labels(self, key: str) -> np.ndarray:
        """Return an array of labels."""
        try:
            return np.asarray(self._array(key))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise FetchError(
                f"{key!r} in {self.path} cannot be used: it holds pickled objects, which are never loaded; if you "
                f"trust the file, save them as text, in a terminal: {self._as_text(key)}"
            ) from error

    def _as_text(self, key: str) -> str:
        """Return a command that saves an array of objects as one of text."""
        target = str(self.path.with_name(f"{self.path.stem}-text.npz")) if self._is_fetched else str(self.path)
        program = (
            f"import numpy as np; a = dict(np.load({str(self.path)!r}, allow_pickle=True)); "
            f"a[{key!r}] = a[{key!r}].astype(str); np.savez_compressed({target!r}, **a)"
        )
        return f"python -c {shlex.quote(program)}" + (f", and give its path ({target})" if self._is_fetched else "")

    def _array(self, key: str) -> np.ndarray | h5py.Dataset:
        try:
            found = self._read(key)
        except KeyError:
            raise FetchError(f"unknown key {key!r} in {self.path}{did_you_mean(key, self.keys)}") from None
        except _DAMAGED as error:
            raise self.damaged(f"key {key!r} of ", error) from error
        if not isinstance(found, np.ndarray | h5py.Dataset) or found.shape is None:
            raise FetchError(f"key {key!r} of {self.path} is no array{did_you_mean(key, self.keys)}")
        return found

    def _read(self, key: str) -> Any:
        if self._file is not None:
            return self._file[key]
        with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]


def _open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file; where the file system has no locks, without one.

    Raises:
        FetchError: another process writes to it, or left it open when it died.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise FetchError(
                f"{path} is locked: another process has it open for writing; close it there (a notebook holds a file "
                "until its kernel is restarted), then go on"
            ) from error
        if "already open for" in str(error):
            raise FetchError(
                f"{path} is marked as open for writing: a process has it open, or died before it closed it; close it "
                f"there, or remove the mark: h5clear -s {shlex.quote(str(path))}"
            ) from error
        if "lock" in str(error):
            return h5py.File(path, "r", locking=False)
        raise


def _check_shapes(key: str, images: Any, labels_key: str, labels: np.ndarray, channels_first: bool | None) -> bool:
    """Return whether channels come first; refuse what is no array of pictures, or could be two."""
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UserError(
            f"{key!r} must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1, 3 or 4, got {shape}; reshape it"
        )
    possible = {True: len(shape) == 4 and shape[1] in CHANNELS, False: len(shape) == 3 or shape[-1] in CHANNELS}
    if channels_first is None and all(possible.values()):
        raise UserError(f"{key!r} is {shape}: (N, H, W, C) or (N, C, H, W); set channels_first: false or true")
    chosen = possible[True] if channels_first is None else channels_first and len(shape) == 4
    if not possible[chosen]:
        layout = "(N, C, H, W)" if chosen else "(N, H, W, C)"
        raise UserError(f"{key!r} must be (N, H, W) or {layout} with C 1, 3 or 4, got {shape}; see channels_first")
    if labels.shape not in (shape[:1], (shape[0], 1)):
        hint = "; one-hot labels become numbers with labels.argmax(1)" if labels.shape[:1] == shape[:1] else ""
        raise UserError(f"{labels_key!r} must hold one label a picture, ({shape[0]},), got {labels.shape}{hint}")
    if images.dtype.kind not in "buif":
        raise UserError(f"{key!r} must hold numbers, got {images.dtype}")
    return chosen


def _layout(shape: tuple[int, ...], channels_first: bool) -> str:
    if len(shape) == 3:
        return "(N, H, W), grey"
    return f"(N, C, H, W), {CHANNELS[shape[1]]}" if channels_first else f"(N, H, W, C), {CHANNELS[shape[-1]]}"


def _range(key: str, images: Any) -> ValueRange:
    lows, highs = [], []
    with bar(f"range of {key}", len(images), delay_s=1) as progress:
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            lows.append(float(block.min()))
            highs.append(float(block.max()))
            progress.update(len(block))
    return ValueRange(float(np.min(lows)), float(np.max(highs)), images.dtype)


def _to_bytes(block: np.ndarray, *, white: float, channels_first: bool) -> np.ndarray:
    """Scale 0..white to 0..255 and put the channels last."""
    block = np.moveaxis(block, 1, -1) if channels_first and block.ndim == 4 else block
    if block.dtype == np.uint8 and white == 255:
        return np.ascontiguousarray(block)
    return np.rint(block.astype(np.float64) * (255 / white)).astype(np.uint8)
