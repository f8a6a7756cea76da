"""ImageNet-1k (ILSVRC 2012) read inside its archives: torchvision's own class would unpack 1.28 million files first.

The training archive is a tar of one uncompressed tar a class, so every picture lies in one piece at a known place.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torchvision.datasets import imagenet

from pipeline.catalogue.datasets import Torchvision
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import FetchError, UserError
from pipeline.runtime.files import digest_file
from pipeline.sources.file_kinds import replaced
from pipeline.sources.splits import Account, RawDataset
from pipeline.sources.torchvision_sets import count_by_hand, link_by_hand

AHEAD_BYTES = 2 << 20  # read at one go of a class: enough for a disk to be sequential, 2 GB of cache for 1,000 classes


class _Members(NamedTuple):
    """Pictures in an archive: names, and (M,) int64 byte offsets and sizes within it."""

    names: list[str]
    starts: np.ndarray
    sizes: np.ndarray

    def take(self, order: np.ndarray) -> _Members:
        """Return them in another order."""
        return _Members([self.names[index] for index in order], self.starts[order], self.sizes[order])


def open_imagenet(entry: Torchvision, scratch: Path) -> RawDataset:
    """List the archives and take classes and validation labels from the development kit.

    Nothing is unpacked but the kit, 2.5 MB. Training pictures come with their classes evenly mixed, each class in the
    order of its archive, so that what is packed together holds many classes.

    Raises:
        FetchError: an archive that is missing or damaged.
        UserError: a split that ImageNet does not have.
    """
    if entry.by_hand is None:
        raise FetchError("by_hand: ImageNet cannot be downloaded without an account; say where its archives are")
    root = link_by_hand(entry.by_hand, scratch)
    wnids, names, val_wnids = _read_kit(root)
    labels, pictures = {}, {}
    for split in ("train", "test"):
        given = getattr(entry, split)
        if given is not None:
            kind = _kind(split, given)
            archive = _archive(root, kind)
            members, labels[split] = _train(archive, wnids) if kind == "train" else _val(archive, wnids, val_wnids)
            pictures[split] = partial(_pictures, archive, members)
    account = Account(sum(map(len, labels.values())))
    count_by_hand(entry.by_hand, account)
    return RawDataset(labels, pictures, names, "ImageNet (ILSVRC 2012), read in its archives", account)


def _kind(split: str, given: dict[str, Any]) -> str:
    kind = given.get("split", "train")
    if kind not in ("train", "val") or set(given) - {"split"}:
        raise UserError(f"{split}: must be {{split: train}} or {{split: val}} for ImageNet, got {given}")
    return kind


def _archive(root: Path, kind: str) -> Path:
    """Return an archive that is there and has the md5 sum which torchvision knows."""
    name, md5 = imagenet.ARCHIVE_META[kind]
    path = root / name
    if not path.exists():
        raise FetchError(f"by_hand.files: {name} is needed; name it there and put it beside the others")
    if digest_file(path, "md5") != md5:
        real = path.resolve()
        what = f"{real} ({real.stat().st_size} bytes) does not have the md5 sum {md5}"
        raise FetchError(replaced(real) or f"{what}; fetch it again and compare its size with the publisher's")
    return path


def _read_kit(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the classes' WordNet ids in ascending order, their names, and the ids of the validation pictures."""
    _archive(root, "devkit")
    imagenet.parse_devkit_archive(root)
    synonyms, val_wnids = imagenet.load_meta_file(root)
    wnids = sorted(synonyms)
    return wnids, [", ".join(synonyms[wnid]) for wnid in wnids], val_wnids


def _train(archive: Path, wnids: list[str]) -> tuple[_Members, np.ndarray]:
    """Return the pictures of the archives in an archive, evenly mixed, and their labels."""
    parts, labels, places = [], [], []
    with tarfile.open(archive, "r:") as outer:
        for member in bar("listing the classes", None, unit="class", delay_s=1, iterable=outer):
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                parts.append(_list(inner, member.offset_data))
            num = len(parts[-1].names)
            labels.append(np.full(num, wnids.index(Path(member.name).stem)))
            places.append((np.arange(num) + 0.5) / num)
    names = [name for part in parts for name in part.names]
    starts, sizes = (np.concatenate([getattr(part, key) for part in parts]) for key in ("starts", "sizes"))
    label, place = np.concatenate(labels), np.concatenate(places)
    order = np.lexsort((label, place))
    return _Members(names, starts, sizes).take(order), label[order]


def _val(archive: Path, wnids: list[str], val_wnids: list[str]) -> tuple[_Members, np.ndarray]:
    """Return the validation pictures by name, which is the order of the kit's list of classes."""
    with tarfile.open(archive, "r:") as opened:
        found = _list(opened, 0)
    return found.take(np.argsort(found.names)), np.searchsorted(wnids, val_wnids)


def _list(opened: tarfile.TarFile, origin: int) -> _Members:
    names, places = [], []
    while (member := opened.next()) is not None:
        opened.members.clear()  # a TarFile remembers every member
        if member.isreg():
            names.append(member.name)
            places.append((origin + member.offset_data, member.size))
    starts, sizes = np.array(places, np.int64).reshape(-1, 2).T
    return _Members(names, starts, sizes)


def _pictures(archive: Path, members: _Members) -> Iterator[tuple[bytes, str]]:
    """Read pictures by position; the first one in a stretch has all of it read, so that a disk seeks less."""
    stretches, first = np.unique(members.starts // AHEAD_BYTES, return_index=True)
    ahead = dict(zip(first.tolist(), (stretches * AHEAD_BYTES).tolist(), strict=True))
    with archive.open("rb", buffering=0) as file:
        handle = file.fileno()
        for index, (name, start, size) in enumerate(zip(*members, strict=True)):
            if index in ahead and hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(handle, ahead[index], AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            yield os.pread(handle, int(size), int(start)), f"{name} in {archive.name}"
