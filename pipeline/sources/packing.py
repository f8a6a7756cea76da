"""Writing packed data sets: every picture is decoded once, checked and put into a few Arrow files.

data/<name>/ holds train-00000.arrow, ..., test-00000.arrow, ... (Arrow IPC, uncompressed, so that data/loader.py
can memory-map them) with the columns image (a PNG or JPEG file) and label, and meta.json, written last.
The same pictures give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from operator import length_hint
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from pipeline.runtime.bars import bar, num_cpus
from pipeline.runtime.errors import UserError, together
from pipeline.runtime.files import sync, sync_folder
from pipeline.sources.file_kinds import no_permission
from pipeline.sources.images import Picture, Prepared, prepare

SHARD_BYTES = 10**9
RECORD_BYTES = 16 << 20  # of a record batch, so that memory stays flat
RECORD_ROWS = 1024
AHEAD_BYTES = 512 << 20  # of pictures that are being decoded, or wait for those before them
DARK = 64  # a set without a brighter value than this, a quarter of white, was scaled wrongly
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
    account: dict | None = None,
) -> dict:
    """Write a packed data set; the folder appears only when it is complete.

    EXIF rotation is applied, transparency is put on white, 16 bits become 8, palettes and CMYK become RGB; grey stays
    grey. A file that needs none of this is kept byte for byte, others become PNG.

    Args:
        folder: data/<name>; replaced if it exists.
        name: of the data set.
        source: its catalogue entry.
        classes: class names.
        splits: pictures of "train" and "test"; read once, with at most half a gigabyte in memory at a time.
        origin: which bytes were used, such as a commit, in words.
        account: what meta.json holds besides, such as what was found and left out.

    Returns:
        meta.json as a dict.

    Raises:
        PackError: pictures that cannot be decoded (all of them are tried, the first ten named), fewer than two classes,
            a class without a picture in train or test, a split that is mostly of one colour or nearly black, or a full
            disk.
    """
    if len(classes) < 2:
        raise PackError(f"data set {name!r}: at least 2 classes are needed, got {len(classes)}: {', '.join(classes)}")
    begun = folder.with_name(f".{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    try:
        total = sum(length_hint(pictures) for pictures in splits.values()) or None
        with bar(f"packing {name}", total) as told:
            written = {split: _write_split(begun, split, classes, pictures, told) for split, pictures in splits.items()}
        _check(name, classes, written)
        meta = _describe(name, source, origin, classes, written) | (account or {})
        _write_synced(begun / "meta.json", (json.dumps(meta, indent=1, ensure_ascii=False) + "\n").encode())
        if folder.exists():
            shutil.rmtree(folder)
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
        self.constant = Counter()
        self.brightest = 0
        self.bad: list[str] = []
        self.files: list[dict] = []

    def add(self, picture: Prepared) -> None:
        self.per_class[picture.label] += 1
        self.widths[picture.width] += 1
        self.heights[picture.height] += 1
        self.num_grey += picture.is_grey
        self.fingerprints.append(picture.fingerprint)
        self.changes.update(picture.changes)
        if picture.constant is not None:
            self.constant[picture.constant] += 1
        self.brightest = max(self.brightest, picture.brightest)


def _write_split(folder: Path, split: str, classes: list[str], pictures: Iterable[Picture], told: tqdm) -> _Split:
    result, shard = _Split(len(classes)), None
    for row in _prepare_all(split, len(classes), pictures):
        told.update()
        if isinstance(row, str):
            result.bad.append(row)
            continue
        shard = shard or _Shard(folder / f"{split}-{len(result.files):05d}.arrow")
        result.add(row)
        shard.append(row)
        if shard.num_bytes >= SHARD_BYTES:
            result.files.append(shard.close())
            shard = None
    if shard:
        result.files.append(shard.close())
    return result


def _check(name: str, classes: list[str], splits: dict[str, _Split]) -> None:
    """Refuse what cannot be meant, all of it at once."""
    bad = [line for result in splits.values() for line in result.bad]
    if bad:
        if len(bad) == 1:
            raise PackError(f"data set {name!r}: {bad[0]}; repair it or take it out of the source")
        raise PackError(f"data set {name!r}: repair these pictures or take them out of the source; {together(bad)}")
    faults = [fault for split, result in splits.items() for fault in _faults(split, classes, result)]
    if faults:
        raise PackError(f"data set {name!r}: {together(faults)}")


def _faults(split: str, classes: list[str], result: _Split) -> Iterator[str]:
    num_images = sum(result.per_class)
    absent = [label for label, count in zip(classes, result.per_class, strict=True) if count == 0]
    if absent:
        yield (
            f"split {split!r} has no picture of {len(absent)} of {len(classes)} classes: "
            f"{', '.join(absent[:10])}; every class needs one in train and one in test"
        )
    if len(result.constant) == 1 and 2 * result.constant.total() > num_images:
        yield (
            f"{result.constant.total()} of {num_images} images of split {split!r} are the same colour throughout "
            f"({next(iter(result.constant)):#x}), and teach nothing; look at the source and write it anew"
        )
    elif num_images and result.brightest < DARK:
        yield (
            f"no value of split {split!r} is above {result.brightest} of 255, so that its images are nearly black; "
            "multiply the values until they fill 0..255 (16 bits: 0..65535) and save the pictures again"
        )


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
        sync(self._file.fileno())
        self._file.close()
        return {"name": self.path.name, "num_images": self.num_images, "sha256": self._digest.hexdigest()}

    def _write_record(self) -> None:
        self._writer.write_batch(pa.record_batch([self._images, self._labels], schema=SCHEMA))
        self._images, self._labels, self._held = [], [], 0


def _prepare_all(split: str, num_classes: int, pictures: Iterable[Picture]) -> Iterator[Prepared | str]:
    """Decode, check and encode with all cores, in order; yield a line in place of a picture that cannot be used."""

    def work(index: int, picture: Picture) -> Prepared | str:
        assert 0 <= picture.label < num_classes, f"label {picture.label} of {num_classes} classes"
        try:
            return prepare(picture)
        except MemoryError:
            raise
        except Exception as error:  # decoders trip over damaged files in many ways
            reason = no_permission(Path(error.filename)) if isinstance(error, PermissionError) else error
            return f"split {split!r}, picture {index} ({picture.where}) cannot be used: {reason}"

    num_threads = num_cpus()
    numbered, ahead, held = enumerate(pictures), deque(), 0
    with ThreadPoolExecutor(num_threads) as pool:
        while True:
            while len(ahead) < 4 * num_threads and (held < AHEAD_BYTES or not ahead):
                if (item := next(numbered, None)) is None:
                    break
                cost = _num_bytes(item[1].content)
                ahead.append((pool.submit(work, *item), cost))
                held += cost
            if not ahead:
                return
            done, cost = ahead.popleft()
            yield done.result()
            held -= cost


def _num_bytes(content: bytes | Path | Image.Image | np.ndarray | Exception) -> int:
    """Return the memory that a picture takes, decoded; its header says the size."""
    if isinstance(content, np.ndarray):
        return content.nbytes
    try:
        if isinstance(content, bytes):
            content = io.BytesIO(content)
        with nullcontext(content) if isinstance(content, Image.Image) else Image.open(content) as image:
            return 4 * image.width * image.height
    except Exception:  # told when it is decoded
        return 0


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
        "num_constant_images": sum(split.constant.total() for split in splits.values()),
        "splits": {
            key: {"num_images": num_images[key], "per_class": split.per_class, "files": split.files}
            for key, split in splits.items()
        },
    }


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())
