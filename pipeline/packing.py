"""Writing packed data sets: every picture is decoded once, checked and put into a few Arrow files.

data/<name>/ holds train-00000.arrow, ..., test-00000.arrow, ... (Arrow IPC, uncompressed, so that pipeline/datasets.py
can memory-map them) with the columns image (a PNG or JPEG file) and label, and meta.json, written last.
The same pictures give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.files import sync_folder
from pipeline.pictures import Picture, Prepared, prepare

SHARD_BYTES = 10**9
RECORD_BYTES = 16 << 20  # of a record batch, so that memory stays flat
RECORD_ROWS = 1024
SCHEMA = pa.schema([("image", pa.large_binary()), ("label", pa.int64())])


class PackError(UserError):
    """A data set that cannot be used as it is; the message names the picture or the class."""


def pack(
    folder: Path,
    name: str,
    source: dict,
    classes: list[str],
    splits: dict[str, Iterable[Picture]],
    *,
    origin: str = "",
) -> dict:
    """Write a packed data set; the folder appears only when it is complete.

    EXIF rotation is applied, transparency is put on white, 16 bits become 8, palettes and CMYK become RGB; grey stays
    grey. A file that needs none of this is kept byte for byte, others become PNG.

    Args:
        folder: data/<name>; replaced if it exists.
        name: of the data set.
        source: its catalogue entry.
        classes: class names.
        splits: pictures of "train" and "test"; read once, a few hundred in memory at a time.
        origin: which bytes were used, such as a commit, in words.

    Returns:
        meta.json as a dict.

    Raises:
        PackError: a picture that cannot be decoded (named), fewer than two classes, an empty split, a class without a
            picture in train or test, or a full disk.
    """
    if len(classes) < 2:
        raise PackError(f"data set {name!r}: at least 2 classes are needed, got {len(classes)}: {', '.join(classes)}")
    begun = folder.with_name(f".{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    try:
        written = {split: _write_split(begun, name, split, classes, pictures) for split, pictures in splits.items()}
        meta = _describe(name, source, origin, classes, written)
        _write_synced(begun / "meta.json", (json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode())
        shutil.rmtree(folder, ignore_errors=True)
        begun.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PackError(f"data set {name!r}: the disk is full at {folder.parent}; free some space") from error
        raise
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return meta


class _Split:
    """What is known of a split when it is written."""

    def __init__(self, num_classes: int) -> None:
        self.per_class = [0] * num_classes
        self.widths, self.heights = Counter(), Counter()
        self.num_grey = 0
        self.fingerprints = array("Q")
        self.changes = Counter()
        self.files: list[dict] = []

    def add(self, picture: Prepared) -> None:
        self.per_class[picture.label] += 1
        self.widths[picture.width] += 1
        self.heights[picture.height] += 1
        self.num_grey += picture.is_grey
        self.fingerprints.append(picture.fingerprint)
        self.changes.update(picture.changes)


def _write_split(folder: Path, name: str, split: str, classes: list[str], pictures: Iterable[Picture]) -> _Split:
    result = _Split(len(classes))
    rows = _prepare_all(name, split, len(classes), pictures)
    row = next(rows, None)
    while row is not None:
        shard = _Shard(folder / f"{split}-{len(result.files):05d}.arrow")
        while row is not None and shard.num_bytes < SHARD_BYTES:
            result.add(row)
            shard.append(row)
            row = next(rows, None)
        result.files.append(shard.close())
    absent = [label for label, count in zip(classes, result.per_class, strict=True) if count == 0]
    if absent:
        raise PackError(
            f"data set {name!r}: split {split!r} has no picture of {len(absent)} of {len(classes)} classes: "
            f"{', '.join(absent[:10])}; every class needs one in train and one in test"
        )
    return result


class _Shard:
    """One Arrow file, hashed on its way to the disk."""

    closed = False  # pyarrow asks its sink

    def __init__(self, path: Path) -> None:
        self.path, self.num_bytes, self.num_images = path, 0, 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._writer = pa.ipc.new_file(pa.PythonFile(self, mode="w"), SCHEMA)
        self._images: list[bytes] = []
        self._labels: list[int] = []
        self._held = 0

    def write(self, block: pa.Buffer) -> int:
        self._digest.update(block)
        return self._file.write(block)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def append(self, row: Prepared) -> None:
        self._images.append(row.file)
        self._labels.append(row.label)
        self._held += len(row.file)
        self.num_bytes += len(row.file)
        self.num_images += 1
        if self._held >= RECORD_BYTES or len(self._images) >= RECORD_ROWS:
            self._write_record()

    def close(self) -> dict:
        if self._images:
            self._write_record()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"name": self.path.name, "num_images": self.num_images, "sha256": self._digest.hexdigest()}

    def _write_record(self) -> None:
        self._writer.write_batch(pa.record_batch([self._images, self._labels], schema=SCHEMA))
        self._images, self._labels, self._held = [], [], 0


def _prepare_all(name: str, split: str, num_classes: int, pictures: Iterable[Picture]) -> Iterator[Prepared]:
    """Decode, check and encode with all cores, in order, holding at most a few pictures a core."""

    def work(numbered: tuple[int, Picture]) -> Prepared:
        index, picture = numbered
        assert 0 <= picture.label < num_classes, f"label {picture.label} of {num_classes} classes"
        try:
            return prepare(picture)
        except MemoryError:
            raise
        except Exception as error:  # decoders trip over damaged files in many ways
            raise PackError(
                f"data set {name!r}: split {split!r}, picture {index} ({picture.where}) cannot be used: {error}; "
                "repair it or take it out of the source"
            ) from error

    num_threads = os.cpu_count() or 1
    numbered = enumerate(pictures)
    with ThreadPoolExecutor(num_threads) as pool:
        ahead = deque(pool.submit(work, item) for item in islice(numbered, 4 * num_threads))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(work, item) for item in islice(numbered, 1))


def _describe(name: str, source: dict, origin: str, classes: list[str], splits: dict[str, _Split]) -> dict:
    widths = [width for split in splits.values() for width in split.widths]
    heights = [height for split in splits.values() for height in split.heights]
    num_images = {key: sum(split.per_class) for key, split in splits.items()}
    is_grey = all(split.num_grey == num_images[key] for key, split in splits.items())
    seen = np.unique(np.frombuffer(splits["train"].fingerprints, np.uint64))
    leaked = np.isin(np.frombuffer(splits["test"].fingerprints, np.uint64), seen)
    return {
        "name": name,
        "source": source,
        "origin": origin,
        "classes": list(classes),
        "channels": 1 if is_grey else 3,
        "width_px": [min(widths), max(widths)],
        "height_px": [min(heights), max(heights)],
        "changes": dict(sorted(sum((split.changes for split in splits.values()), Counter()).items())),
        "num_test_images_in_train": int(leaked.sum()),
        "splits": {
            key: {"num_images": num_images[key], "per_class": split.per_class, "files": split.files}
            for key, split in splits.items()
        },
    }


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
