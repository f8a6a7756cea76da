"""From what a source holds to what is packed: labels 0..num_classes-1 with names, and always a test split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.pictures import Picture

Content = bytes | Path | Image.Image | np.ndarray


class Raw(NamedTuple):
    """What a source holds.

    labels: (N,) integers or strings of each split; "train" alone if there is no test split.
    pictures: for each split a function that goes through its (picture, what to call it) pairs, in the order of labels.
    names: of the labels 0, 1, ...; None if the labels are their own names. origin: which bytes these are, in words.
    """

    labels: dict[str, np.ndarray]
    pictures: dict[str, Callable[[], Iterator[tuple[Content, str]]]]
    names: list[str] | None
    origin: str


def to_splits(raw: Raw, *, test_frac: float, split_seed: int) -> tuple[list[str], dict[str, Iterator[Picture]]]:
    """Number the classes and split off a test set if the source has none.

    Classes without a single picture are left out; the others keep their order (of names, or of labels).

    Args:
        raw: the source's pictures.
        test_frac, split_seed: see `stratified_test`; used without a test split only.

    Returns:
        Class names, and the pictures of "train" and "test".

    Raises:
        ValueError: labels that are not classes, or a class too small to split.
    """
    classes, labels = number_classes(raw.labels, raw.names)
    if "test" in labels:
        everything = {split: np.ones(len(labels[split]), bool) for split in labels}
        return classes, {split: _pick(raw, split, labels[split], everything[split]) for split in labels}
    is_test = stratified_test(labels["train"], classes, test_frac=test_frac, seed=split_seed)
    return classes, {
        "train": _pick(raw, "train", labels["train"], ~is_test),
        "test": _pick(raw, "train", labels["train"], is_test),
    }


def _pick(raw: Raw, split: str, labels: np.ndarray, wanted: np.ndarray) -> Iterator[Picture]:
    for (content, where), label, is_wanted in zip(raw.pictures[split](), labels, wanted, strict=True):
        if is_wanted:
            yield Picture(content, int(label), where)


def number_classes(labels: dict[str, np.ndarray], names: list[str] | None) -> tuple[list[str], dict[str, np.ndarray]]:
    """Map labels to 0..num_classes-1.

    Args:
        labels: (N,) integers (or whole floats, booleans) or strings of each split.
        names: of the labels 0, 1, ...; None: labels are named after themselves, in ascending order.

    Returns:
        Class names, and (N,) int64 labels of each split.

    Raises:
        ValueError: an empty split, fractional labels, a mixture of kinds, or a label without a name.
    """
    clean = {split: _clean(split, values) for split, values in labels.items()}
    if len({values.dtype.kind for values in clean.values()}) > 1:
        raise UserError("labels are numbers in one split and strings in the other; use one kind")
    present = np.unique(np.concatenate(list(clean.values())))
    if names is not None and present.dtype.kind == "U":
        raise UserError("labels are names already; class names can be given for numbers only")
    if names is not None and (present[0] < 0 or present[-1] >= len(names)):
        odd = int(present[0] if present[0] < 0 else present[-1])
        raise UserError(
            f"label {odd} is not one of the {len(names)} classes 0..{len(names) - 1}"
            + ("; a split without labels (all -1) cannot be used" if odd == -1 else "")
        )
    classes = [str(value) if names is None else names[value] for value in present.tolist()]
    return classes, {split: np.searchsorted(present, values) for split, values in clean.items()}


def _clean(split: str, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.size == 0:
        raise UserError(f"split {split!r} is empty")
    if labels.dtype.kind in "OS":
        labels = np.array([value.decode() if isinstance(value, bytes) else value for value in labels.tolist()])
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind in "biu":
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iU":
        raise UserError(
            f"labels of split {split!r} must be a list of class numbers or names, got {labels.dtype} {labels.shape}"
        )
    return labels


def stratified_test(labels: np.ndarray, classes: list[str], *, test_frac: float, seed: int) -> np.ndarray:
    """Choose the same fraction of every class at random.

    Args:
        labels: (N,) in 0..num_classes-1.
        classes: their names.
        test_frac: fraction of each class to choose, rounded, at least one picture and never all.
        seed: the same seed chooses the same pictures, in every version of numpy (RandomState is frozen).

    Returns:
        (N,) bool, true where a picture is chosen.

    Raises:
        ValueError: naming a class of fewer than two pictures.
    """
    chosen = np.zeros(len(labels), bool)
    random = np.random.RandomState(seed)
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(f"class {name!r} has {len(members)} picture; a split into train and test needs 2")
        count = min(max(round(test_frac * len(members)), 1), len(members) - 1)
        chosen[random.permutation(members)[:count]] = True
    return chosen
