"""Pictures from torchvision.datasets: any class of it that gives (image, label) pairs.

torchvision checks the md5 sums it knows, CIFAR's pickles among them, before it reads a file.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from PIL import Image
from torchvision.datasets import utils

from pipeline.catalogue.datasets import ByHand, Torchvision
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError, did_you_mean, together
from pipeline.runtime.files import link_or_copy, where_possible
from pipeline.sources.file_kinds import check_readable
from pipeline.sources.inputs import user_path
from pipeline.sources.splits import Account, RawDataset
from pipeline.sources.transfer import FetchError, fetch


def open_torchvision(entry: Torchvision, scratch: Path) -> RawDataset:
    """Construct the training and the test data set, downloading what torchvision can download.

    Archives are kept in scratch/files and continue after an interruption; what is unpacked from them goes to
    scratch/root, which is made anew each time because torchvision takes a half-unpacked folder for a whole one.

    Raises:
        FetchError: an unknown class, files to be fetched by hand, a failed download.
        ValueError: arguments that the class does not take.
    """
    kind = find_class(entry.dataset)
    arguments = {split: getattr(entry, split) for split in ("train", "test") if getattr(entry, split) is not None}
    for split, given in arguments.items():
        check_arguments(kind, split, given)
    root = link_by_hand(entry.by_hand, scratch)
    with _resumable(scratch / "files"):
        opened = {split: _construct(kind, root, given, entry, scratch) for split, given in arguments.items()}
    labels = {split: _labels(pictures, split) for split, pictures in opened.items()}
    account = Account(sum(map(len, labels.values())))
    count_by_hand(entry.by_hand, account)
    pictures = {split: partial(_pictures, kind.__name__, images) for split, images in opened.items()}
    origin = f"torchvision {torchvision.__version__} {kind.__name__}"
    return RawDataset(labels, pictures, _class_names(opened["train"], labels), origin, account)


def find_class(name: str) -> type:
    """Return the class of torchvision.datasets.

    Raises:
        FetchError: naming the nearest match.
    """
    found = getattr(torchvision.datasets, name, None)
    if name.startswith("_") or not inspect.isclass(found) or not issubclass(found, torchvision.datasets.VisionDataset):
        known = [key for key in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, key))]
        raise FetchError(f"dataset: torchvision.datasets has no {name!r}{did_you_mean(name, known)}")
    return found


def check_arguments(kind: type, split: str, arguments: dict[str, Any]) -> None:
    """Raise ValueError, naming the nearest match, for an argument that the class does not take."""
    takes = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return
    for key in arguments:
        if key not in takes:
            raise UserError(f"{split}: {kind.__name__} takes no argument {key!r}{did_you_mean(key, takes)}")


def _construct(kind: type, root: Path, arguments: dict[str, Any], entry: Torchvision, scratch: Path) -> Any:
    takes = inspect.signature(kind).parameters
    given = dict(arguments)
    if "root" in takes:
        given["root"] = str(root)
    if "download" in takes and not entry.by_hand:
        given["download"] = True
    if "loader" in takes or issubclass(kind, torchvision.datasets.DatasetFolder):
        given["loader"] = Path  # hands the file on as it is, so that a JPEG is not decoded and encoded anew
    try:
        return kind(**given)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise _gone(kind, error) from error
    except RuntimeError as error:
        if "corrupted" in str(error) and not entry.by_hand:
            shutil.rmtree(scratch / "files", ignore_errors=True)
            raise FetchError(
                f"{kind.__name__}: a file does not have the checksum that torchvision expects; the files are removed, "
                "run the same command again; if it happens again its publisher has changed it: fetch the files "
                "elsewhere and name them under by_hand"
            ) from error
        if "Error downloading" in str(error):
            raise _gone(kind, error) from error
        raise FetchError(f"{kind.__name__}: {error}") from error
    except TypeError as error:
        raise UserError(f"{kind.__name__}: {error}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{kind.__name__} with {arguments}: {error}; correct the arguments") from error


def _gone(kind: type, error: Exception) -> FetchError:
    reason = getattr(error, "reason", error)
    return FetchError(
        f"{kind.__name__} cannot be downloaded: {reason}; if its publisher has moved it, fetch the files elsewhere and "
        "name them under by_hand"
    )


@contextmanager
def _resumable(files: Path) -> Iterator[None]:
    """Replace torchvision's transfer, which starts from zero after an interruption, by ours."""

    def retrieve(url: str, filename: str, chunk_size: int = 0) -> None:
        kept = files / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(filename).name}"
        try:
            fetch(url, kept, sha256=None)
        except FetchError as error:
            raise urllib.error.URLError(str(error)) from error  # upon this torchvision tries the next mirror
        Path(filename).unlink(missing_ok=True)
        link_or_copy(kept, Path(filename))

    theirs = utils._urlretrieve
    utils._urlretrieve = retrieve
    try:
        yield
    finally:
        utils._urlretrieve = theirs


def link_by_hand(by_hand: ByHand | None, scratch: Path) -> Path:
    """Make scratch/root anew, with links to the files that were fetched by hand.

    Raises:
        FetchError: naming those that are missing, where they can be had and where they go.
    """
    root = scratch / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    if by_hand is None:
        return root
    folder = user_path(by_hand.path).resolve()
    missing = [name for name in by_hand.files if not (folder / name).exists()]
    if missing:
        raise FetchError(
            f"{by_hand.what} must be fetched by hand\n  from: {by_hand.origin}\n  to:   {folder}\n"
            f"  missing there: {', '.join(missing)}\nThen run the same command again."
        )
    for name in by_hand.files:
        link, file = root / name, folder / name
        if file.is_file():
            check_readable(file)
        link.parent.mkdir(parents=True, exist_ok=True)
        with where_possible():  # no symbolic links on some disks
            link.symlink_to(file)
            continue
        for part in [file] if file.is_file() else file.rglob("*"):
            if part.is_file():
                (root / part.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(part, root / part.relative_to(folder))
    return root


def count_by_hand(by_hand: ByHand | None, account: Account) -> None:
    """Count the files that were fetched by hand."""
    for name in by_hand.files if by_hand else ():
        path = user_path(by_hand.path) / name
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                account.read(file.stat().st_size)


def _labels(images: Any, split: str) -> np.ndarray:
    labels, bad = [], []
    for index in bar(f"labels of {split}", len(images), delay_s=1, iterable=range(len(images))):
        try:
            labels.append(int(images[index][1]))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{split}: {type(images).__name__} does not give one class number a picture ({error}); choose the data "
                "set or arguments with class labels"
            ) from error
        except (OSError, SyntaxError) as error:  # of Pillow
            bad.append(f"{split}: picture {index} of {type(images).__name__} cannot be read: {error}")
    if bad:
        raise FetchError(f"{together(bad)}; repair or replace the files")
    return np.array(labels)


def _pictures(name: str, images: Any) -> Iterator[tuple[Path | Image.Image | np.ndarray, str]]:
    for index in range(len(images)):
        content = images[index][0]
        yield content, content.name if isinstance(content, Path) else f"{name}[{index}]"


def _class_names(images: Any, labels: dict[str, np.ndarray]) -> list[str] | None:
    """Return the names of labels 0, 1, ... where the class knows them; ImageNet gives several for each."""
    names = getattr(images, "classes", None)
    if not isinstance(names, list | tuple) or len(names) <= max(int(values.max()) for values in labels.values()):
        return None
    return [", ".join(name) if isinstance(name, list | tuple) else str(name) for name in names]
