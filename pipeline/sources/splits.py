"""Labels 0..num_classes-1 with names, and a test split, for any source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.runtime.errors import UserError, together
from pipeline.sources.images import Picture
from pipeline.sources.labels import number_classes

Content = bytes | Path | Image.Image | np.ndarray | Exception
"""A picture in one of the forms that can be packed, or why there is none."""


class Account:
    """What was found and is not used, with reasons; and what was taken for what.

    Attributes:
        num_found: pictures and other things that the source holds.
        left_out: reason to count.
        examples: reason to the first few names.
        notes: lines for the screen and meta.json.
        num_files, num_bytes: of the user's own files that are read.
    """

    def __init__(self, num_found: int = 0, notes: list[str] | None = None) -> None:
        """Begin with what is known."""
        self.num_found, self.notes = num_found, notes or []
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.num_files = self.num_bytes = 0

    def read(self, num_bytes: int) -> None:
        """Count a file of the user's."""
        self.num_files += 1
        self.num_bytes += num_bytes

    def leave_out(self, reason: str, name: str = "", count: int = 1) -> None:
        """Count what is found and not used."""
        self.left_out[reason] += count
        examples = self.examples.setdefault(reason, [])
        if name and len(examples) < 3:
            examples.append(name)


class RawDataset(NamedTuple):
    """What a source holds.

    labels: (N,) numbers or names of each split; "train" alone if there is no test split.
    pictures: for each split a function that goes through its (picture, what to call it) pairs, in the order of labels.
    names: of the labels 0, 1, ...; None if the labels are their own names. origin: which bytes these are, in words.
    account: what is found and not used; None: all of it is.
    """

    labels: dict[str, np.ndarray]
    pictures: dict[str, Callable[[], Iterator[tuple[Content, str]]]]
    names: list[str] | None
    origin: str
    account: Account | None = None


class Pictures:
    """The labelled pictures of a split; their number is known before the first is read."""

    def __init__(self, contents: Callable[[], Iterator[tuple[Content, str]]], labels: np.ndarray, wanted: np.ndarray):
        """Take labels and wanted, (N,), in the order of contents."""
        self._contents, self._labels, self._wanted = contents, labels, wanted

    def __len__(self) -> int:
        """N, of those that are wanted."""
        return int(self._wanted.sum())

    def __iter__(self) -> Iterator[Picture]:
        """Read them."""
        for (content, where), label, is_wanted in zip(self._contents(), self._labels, self._wanted, strict=True):
            if is_wanted:
                yield Picture(content, int(label), where)


def to_splits(raw: RawDataset, *, test_frac: float, split_seed: int) -> tuple[list[str], dict[str, Pictures], Account]:
    """Number the classes and split off a test set if the source has none.

    Rows without a label are left out, and so are classes without a single picture; the others keep their order (of
    names, or of labels).

    Args:
        raw: the source's pictures.
        test_frac, split_seed: see `stratified_test`; used without a test split only.

    Returns:
        Class names, the pictures of "train" and "test", and the account.

    Raises:
        UserError: labels that are not classes, or with which no probe can be trained or tested; all faults at once.
    """
    classes, labels = number_classes(raw.labels, raw.names)
    _check_classes(classes, labels)
    account = raw.account or Account(sum(map(len, labels.values())))
    if num_unlabelled := sum(int((values < 0).sum()) for values in labels.values()):
        account.leave_out("rows without a label", count=num_unlabelled)
    if "test" in labels:
        return (
            classes,
            {split: Pictures(raw.pictures[split], values, values >= 0) for split, values in labels.items()},
            account,
        )
    train = labels["train"]
    is_test = stratified_test(train, classes, test_frac=test_frac, seed=split_seed)
    chosen = {"train": (train >= 0) & ~is_test, "test": is_test}
    return classes, {split: Pictures(raw.pictures["train"], train, wanted) for split, wanted in chosen.items()}, account


def _check_classes(classes: list[str], labels: dict[str, np.ndarray]) -> None:
    """Refuse by the labels alone, before pictures are decoded for hours, what no probe can be trained on or tested."""
    faults = []
    if len(classes) < 2:
        faults.append(f"at least 2 classes are needed, got {len(classes)}: {classes[0]}; one class teaches no probe")
    for split, values in labels.items():
        absent = [classes[label] for label in np.setdiff1d(np.arange(len(classes)), values)]
        if absent:
            faults.append(
                f"split {split!r} has no picture of {len(absent)} of {len(classes)} classes: {', '.join(absent[:10])}; "
                "add some, remove the class, or let the training split be divided (test: null)"
            )
    if faults:
        raise UserError(together(faults))


def stratified_test(labels: np.ndarray, classes: list[str], *, test_frac: float, seed: int) -> np.ndarray:
    """Choose the same fraction of every class at random.

    Args:
        labels: (N,) in 0..num_classes-1; others are never chosen.
        classes: their names.
        test_frac: fraction of each class to choose, rounded, at least one picture and never all.
        seed: the same seed chooses the same pictures, in every version of numpy (RandomState is frozen).

    Returns:
        (N,) bool, true where a picture is chosen.

    Raises:
        UserError: naming the classes of fewer than two pictures.
    """
    chosen = np.zeros(len(labels), bool)
    random = np.random.RandomState(seed)
    small = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            small.append(f"class {name!r} has {len(members)} picture")
            continue
        count = min(max(round(test_frac * len(members)), 1), len(members) - 1)
        chosen[random.permutation(members)[:count]] = True
    if small:
        raise UserError(f"{together(small)}\na split into train and test needs 2; add pictures or remove the class")
    return chosen
