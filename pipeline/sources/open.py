"""Where pictures come from: `open_source` takes a catalogue entry to labelled pictures, fetching what is not there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.catalogue.datasets import UNVERIFIED, Arrays, Bundled, Dataset, Folder
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import sha256_file
from pipeline.sources import arrays
from pipeline.sources.archives import extract
from pipeline.sources.file_kinds import check_readable, no_permission
from pipeline.sources.folder import open_folder
from pipeline.sources.inputs import user_path
from pipeline.sources.splits import Account, Pictures, RawDataset, to_splits
from pipeline.sources.transfer import FetchError, fetch, shown

BUNDLED = Path(__file__).parents[2] / "data" / "bundled"


class Source(NamedTuple):
    """Labelled pictures, ready to be packed: class names, the pictures of "train" and "test", which bytes they are."""

    classes: list[str]
    splits: dict[str, Pictures]
    origin: str
    account: Account


def open_source(name: str, entry: Dataset, scratch: Path, *, bundled: Path = BUNDLED) -> Source:
    """Fetch what an entry of the catalogue names and return its pictures.

    Args:
        name: of the data set.
        entry: its catalogue entry.
        scratch: folder for raw transfers; what is there from an earlier attempt is used.
        bundled: folder of the sets that come with the repository.

    Raises:
        UserError: something that cannot be had, or does not fit its description; says what to do.
    """
    with told_by_name(name):
        raw = _open_raw(name, entry, scratch, bundled)
        classes, splits, account = to_splits(raw, test_frac=entry.test_frac, split_seed=entry.split_seed)
    return Source(classes, splits, raw.origin, account)


@contextmanager
def told_by_name(name: str) -> Iterator[None]:
    """Begin every message about the data with the path of the entry in params.yaml."""
    try:
        yield
    except FetchError as error:
        raise FetchError(f"datasets.{name}: {error}") from error
    except UserError as error:
        raise UserError(f"datasets.{name}: {error}") from error
    except PermissionError as error:
        if not error.filename or not os.path.exists(error.filename) or os.access(error.filename, os.R_OK):
            raise  # it is about writing
        raise FetchError(f"datasets.{name}: {no_permission(Path(error.filename))}") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # of the operating system, not of a library that reads
            raise
        raise FetchError(
            f"datasets.{name}: its files cannot be read ({type(error).__name__}: {error}); compare them with what "
            "their publisher offers"
        ) from error


def _open_raw(name: str, entry: Dataset, scratch: Path, bundled: Path) -> RawDataset:
    match entry.source:
        case "bundled":
            return bundled_set(name, entry, bundled)
        case "sklearn":
            return sklearn_digits() if entry.patch_px is None else sklearn_patches(entry.patch_px, entry.test_frac)
        case "folder":
            return _open_folder(entry, scratch)
        case "arrays":
            path = local_file(entry, scratch)
            return _counted(arrays.open_arrays(entry, path), entry, path)
        case "torchvision" if entry.dataset == "ImageNet":
            from pipeline.sources.imagenet import open_imagenet  # torch takes seconds to import

            return open_imagenet(entry, scratch)
        case "torchvision":
            from pipeline.sources.torchvision_sets import open_torchvision

            return open_torchvision(entry, scratch)
        case "huggingface":
            from pipeline.sources.hub import open_hub

            return open_hub(entry, scratch)
        case other:
            raise AssertionError(f"no source {other!r}")


def _open_folder(entry: Folder, scratch: Path) -> RawDataset:
    root = local_file(entry, scratch)
    origin = (shown(entry.url) if entry.url else entry.path) + (f" sha256 {entry.sha256}" if entry.sha256 else "")
    if root.is_dir():
        return open_folder(entry, root, origin)
    is_fetched = entry.url is not None
    raw = open_folder(entry, extract(root, scratch / "extracted", is_fetched=is_fetched), origin)
    raw.account.num_files = raw.account.num_bytes = 0
    return _counted(raw, entry, root)


def _counted(raw: RawDataset, entry: Arrays | Folder, path: Path) -> RawDataset:
    """Count a file as the user's own unless it was downloaded."""
    if entry.path:
        raw.account.read(path.stat().st_size)
    return raw


def bundled_set(name: str, entry: Bundled, folder: Path) -> RawDataset:
    """Open folder/<name>.npz with the keys x_train, y_train, x_test, y_test and classes."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise FetchError(f"no bundled data set {name!r}{did_you_mean(name, [p.stem for p in folder.glob('*.npz')])}")
    _check_sha256(path, entry.sha256)
    keys = {"images": "x_train", "labels": "y_train", "test_images": "x_test", "test_labels": "y_test"}
    raw = arrays.open_arrays(Arrays(source="arrays", path=str(path), **keys), path)
    raw.account.notes.clear()
    raw.account.read(path.stat().st_size)
    with np.load(path, allow_pickle=False) as file:
        return raw._replace(names=[str(label) for label in file["classes"]], origin=f"{path.name} of this repository")


def sklearn_digits() -> RawDataset:
    """Open the 1797 grey 8 x 8 digits inside scikit-learn; their values 0..16 become 0..255."""
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pictures = partial(arrays.slices, pixels, "digits", np.asarray)
    return RawDataset({"train": digits.target}, {"train": pictures}, None, "sklearn.datasets.load_digits")


def sklearn_patches(patch_px: int, test_frac: float) -> RawDataset:
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
        split: partial(arrays.slices, part.reshape(-1, patch_px, patch_px, 3), f"{split} patches", np.asarray)
        for split, part in parts.items()
    }
    return RawDataset(labels, pictures, None, "sklearn.datasets.load_sample_images")


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
        path = user_path(entry.path)
        try:
            path.stat()
        except PermissionError:
            closed = next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path.parent)
            raise FetchError(f"path: {no_permission(closed)}") from None
        except OSError:
            raise FetchError(f"path: there is nothing at {path}; correct it in params.yaml") from None
        _check_sha256(path, entry.sha256)
        return path
    if entry.sha256 == UNVERIFIED:
        warnings.warn(f"{shown(entry.url)} is used without a checksum, as params.yaml says", stacklevel=2)
    name = Path(entry.url.split("?")[0].split("#")[0]).name or "file"
    return fetch(entry.url, scratch / name, sha256=None if entry.sha256 == UNVERIFIED else entry.sha256)


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected in (None, UNVERIFIED):
        return
    if path.is_file():
        check_readable(path)
    if path.is_dir():
        raise FetchError(f"sha256: {path} is a folder; a checksum is for a single file, remove it")
    if (got := sha256_file(path)) != expected:
        raise FetchError(
            f"sha256: {path} has {got}, params.yaml says {expected}; restore the file or correct params.yaml"
        )
