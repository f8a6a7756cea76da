"""Where pictures come from: `open_source` takes a catalogue entry to labelled pictures, fetching what is not there."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import sources_arrays
from pipeline.archives import extract
from pipeline.catalogue import UNVERIFIED, Arrays, Bundled, Dataset, Folder
from pipeline.errors import UserError
from pipeline.fetch import FetchError, fetch, shown
from pipeline.files import sha256_file
from pipeline.pictures import Picture
from pipeline.splits import Raw, number_classes, to_splits
from pipeline.validation import did_you_mean

BUNDLED = Path(__file__).parents[1] / "data" / "bundled"
PICTURE_SUFFIXES = {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Source(NamedTuple):
    """Labelled pictures, ready to be packed: class names, the pictures of "train" and "test", which bytes they are."""

    classes: list[str]
    splits: dict[str, Iterator[Picture]]
    origin: str


def open_source(name: str, entry: Dataset, scratch: Path, *, bundled: Path = BUNDLED) -> Source:
    """Fetch what an entry of the catalogue names and return its pictures.

    Args:
        name: of the data set.
        entry: its catalogue entry.
        scratch: folder for raw transfers; what is there from an earlier attempt is used.
        bundled: folder of the sets that come with the repository.

    Raises:
        FetchError: something that cannot be had; says what to do.
        ValueError: data that do not fit their description.
    """
    with _told_by_name(name):
        raw = _open_raw(name, entry, scratch, bundled)
        _check_classes(raw)
        classes, splits = to_splits(raw, test_frac=entry.test_frac, split_seed=entry.split_seed)
    return Source(classes, {split: _read(name, pictures) for split, pictures in splits.items()}, raw.origin)


def _read(name: str, pictures: Iterator[Picture]) -> Iterator[Picture]:
    with _told_by_name(name):
        yield from pictures


@contextmanager
def _told_by_name(name: str) -> Iterator[None]:
    """Begin every message about the data with the path of the entry in params.yaml."""
    try:
        yield
    except FetchError as error:
        raise FetchError(f"datasets.{name}: {error}") from error
    except UserError as error:
        raise UserError(f"datasets.{name}: {error}") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # of the operating system, not of a library that reads
            raise
        raise FetchError(f"datasets.{name}: its files are damaged ({error}); fetch them again") from error


def _check_classes(raw: Raw) -> None:
    """Refuse by the labels alone, before pictures are decoded for hours, what no probe can be trained on or tested."""
    classes, labels = number_classes(raw.labels, raw.names)
    if len(classes) < 2:
        raise UserError(f"at least 2 classes are needed, got {len(classes)}: {classes[0]}; one class teaches no probe")
    for split, values in labels.items():
        absent = [classes[label] for label in np.setdiff1d(np.arange(len(classes)), values)]
        if absent:
            raise UserError(
                f"split {split!r} has no picture of {len(absent)} of {len(classes)} classes: {', '.join(absent[:10])}; "
                "add some, remove the class, or let the training split be divided (test: null)"
            )


def _open_raw(name: str, entry: Dataset, scratch: Path, bundled: Path) -> Raw:
    match entry.source:
        case "bundled":
            return bundled_set(name, entry, bundled)
        case "sklearn":
            return sklearn_digits() if entry.patch_px is None else sklearn_patches(entry.patch_px, entry.test_frac)
        case "folder":
            return folder_set(entry, scratch)
        case "arrays":
            return sources_arrays.open_arrays(entry, local_file(entry, scratch))
        case "torchvision" if entry.dataset == "ImageNet":
            from pipeline.sources_imagenet import open_imagenet  # torch takes seconds to import

            return open_imagenet(entry, scratch)
        case "torchvision":
            from pipeline.sources_torchvision import open_torchvision

            return open_torchvision(entry, scratch)
        case "huggingface":
            from pipeline.sources_hub import open_hub

            return open_hub(entry, scratch)
        case other:
            raise AssertionError(f"no source {other!r}")


def bundled_set(name: str, entry: Bundled, folder: Path) -> Raw:
    """Open folder/<name>.npz with the keys x_train, y_train, x_test, y_test and classes."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise FetchError(f"no bundled data set {name!r}{did_you_mean(name, [p.stem for p in folder.glob('*.npz')])}")
    _check_sha256(path, entry.sha256)
    keys = {"images": "x_train", "labels": "y_train", "test_images": "x_test", "test_labels": "y_test"}
    raw = sources_arrays.open_arrays(Arrays(source="arrays", path=str(path), **keys), path)
    with np.load(path, allow_pickle=False) as arrays:
        return raw._replace(names=[str(label) for label in arrays["classes"]], origin=f"{path.name} of this repository")


def sklearn_digits() -> Raw:
    """Open the 1797 grey 8 x 8 digits inside scikit-learn; their values 0..16 become 0..255."""
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pictures = partial(sources_arrays.slices, pixels, "digits", np.asarray)
    return Raw({"train": digits.target}, {"train": pictures}, None, "sklearn.datasets.load_digits")


def sklearn_patches(patch_px: int, test_frac: float) -> Raw:
    """Cut the two colour photographs inside scikit-learn, 640 x 427 px, into a grid of patches; each one is a class.

    The left of both is for training and the right for testing; the column of patches between them is left out, so that
    no test patch touches a training patch. What fills no whole patch, on the right and at the bottom, is left out too.

    Args:
        patch_px: side of a patch, at most a third of the width.
        test_frac: share of the columns of patches that is for testing, rounded, at least one and all but two at most.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    names = [Path(file).stem for file in photographs.filenames]
    grids = np.stack([_patches(pixels, patch_px) for pixels in photographs.images])  # (photograph, row, column, ...)
    num_columns = grids.shape[2]
    first_test = num_columns - min(max(round(test_frac * num_columns), 1), num_columns - 2)
    parts = {"train": grids[:, :, : first_test - 1], "test": grids[:, :, first_test:]}
    labels = {split: np.repeat(names, part.shape[1] * part.shape[2]) for split, part in parts.items()}
    pictures = {
        split: partial(sources_arrays.slices, part.reshape(-1, patch_px, patch_px, 3), f"{split} patches", np.asarray)
        for split, part in parts.items()
    }
    return Raw(labels, pictures, None, "sklearn.datasets.load_sample_images")


def _patches(pixels: np.ndarray, patch_px: int) -> np.ndarray:
    """Cut (H, W, 3) into (rows, columns, patch_px, patch_px, 3)."""
    rows, columns = pixels.shape[0] // patch_px, pixels.shape[1] // patch_px
    whole = pixels[: rows * patch_px, : columns * patch_px]
    return whole.reshape(rows, patch_px, columns, patch_px, 3).swapaxes(1, 2)


def local_file(entry: Arrays | Folder, scratch: Path) -> Path:
    """Return the file or folder of an entry with `path` or `url`, downloaded if need be and verified.

    Raises:
        FetchError: nothing at `path`, a wrong checksum, or a failed download.
    """
    if entry.path:
        path = Path(entry.path).expanduser()
        if not path.exists():
            raise FetchError(f"path: there is nothing at {path} (from {Path.cwd()}); correct it in params.yaml")
        _check_sha256(path, entry.sha256)
        return path
    if entry.sha256 == UNVERIFIED:
        warnings.warn(f"{shown(entry.url)} is used without a checksum, as params.yaml says", stacklevel=2)
    name = Path(entry.url.split("?")[0].split("#")[0]).name or "file"
    return fetch(entry.url, scratch / name, sha256=None if entry.sha256 == UNVERIFIED else entry.sha256)


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected in (None, UNVERIFIED):
        return
    if path.is_dir():
        raise FetchError(f"sha256: {path} is a folder; a checksum is for a single file, remove it")
    if (got := sha256_file(path)) != expected:
        raise FetchError(
            f"sha256: {path} has {got}, params.yaml says {expected}; restore the file or correct params.yaml"
        )


def folder_set(entry: Folder, scratch: Path) -> Raw:
    """Open pictures kept in one folder per class, in a local folder or an archive."""
    root = local_file(entry, scratch)
    origin = (shown(entry.url) if entry.url else entry.path) + (f" sha256 {entry.sha256}" if entry.sha256 else "")
    if root.is_file():
        root = extract(root, scratch / "extracted")
    parts = {"train": entry.train} | ({"test": entry.test} if entry.test else {})
    found = {split: _list_classes(root / part, split) for split, part in parts.items()}
    labels, pictures = {}, {}
    for split, classes in found.items():
        files = [(file, name) for name, members in classes.items() for file in members]
        labels[split] = np.array([name for _, name in files])
        pictures[split] = partial(_named_files, [file for file, _ in files], root)
    return Raw(labels, pictures, None, origin)


def _named_files(files: list[Path], root: Path) -> Iterator[tuple[Path, str]]:
    return ((file, file.relative_to(root).as_posix()) for file in files)


def _list_classes(folder: Path, split: str) -> dict[str, list[Path]]:
    """Return the pictures of each class folder, all in a fixed order."""
    if not folder.is_dir():
        raise FetchError(f"{split}: there is no folder {folder}")
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
    names = [p.name for p in folders]
    if names and all(name.lower() in _SPLIT_WORDS for name in names):
        raise FetchError(f"{split}: {folder} holds splits ({', '.join(names)}), no classes; set train and test to them")
    if len(folders) < 2:
        hint = f"; if the classes are in {names[0]}, set {split}: {names[0]}" if names else ""
        raise FetchError(f"{split}: at least 2 class folders are needed in {folder}, got {len(folders)}{hint}")
    # NFC: the same accented name is spelt with other bytes by macOS
    return {unicodedata.normalize("NFC", p.name): _list_pictures(p) for p in folders}


def _list_pictures(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if not p.is_dir() and not p.name.startswith("."))
    pictures = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise FetchError(f"class folder {folder} has no picture ({', '.join(sorted(PICTURE_SUFFIXES))}); remove it")
    if others := [p.name for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]:
        warnings.warn(
            f"{folder}: left out {len(others)} files without a picture's suffix, as {others[0]}", stacklevel=2
        )
    return pictures
