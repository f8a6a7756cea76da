"""One rule for labels, whatever holds them: npz, HDF5, parquet, folders, torchvision.

A label is a whole number (integer, whole float, boolean as 0 or 1) or a name (text, bytes in UTF-8). None, NaN and
empty text are no label: such a row is left out and counted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from pipeline.runtime.errors import UserError, together


def clean_labels(split: str, labels: Sequence | np.ndarray) -> np.ma.MaskedArray:
    """Bring labels of any kind to one.

    Args:
        split: for messages.
        labels: (N,) or (N, 1) of one kind, numbers or names.

    Returns:
        (N,) int64 or str; masked where there is no label.

    Raises:
        UserError: an empty split, no label at all, fractions, a mixture of kinds, text that is no UTF-8.
    """
    labels = np.asarray(labels)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "biufUSOT":
        raise UserError(
            f"labels of split {split!r} must be a list of class numbers or names, got {labels.dtype} {labels.shape}; "
            "one-hot labels become numbers with labels.argmax(1)"
        )
    if labels.size == 0:
        raise UserError(f"split {split!r} is empty")
    if labels.dtype.kind in "USOT":
        cleaned = _clean_each(split, labels.tolist())
    else:
        cleaned = np.ma.MaskedArray(labels, np.isnan(labels) if labels.dtype.kind == "f" else False)
    if np.ma.getmaskarray(cleaned).all():
        raise UserError(f"split {split!r} has no labels: all {len(labels)} rows are without one")
    return cleaned if cleaned.dtype.kind == "U" else _whole(split, cleaned)


def _whole(split: str, numbers: np.ma.MaskedArray) -> np.ma.MaskedArray:
    present = np.asarray(numbers.compressed())
    odd = present[~np.isfinite(present) | (present != np.round(present)) | (np.abs(present) >= 2.0**63)]
    if odd.size:
        raise UserError(
            f"labels of split {split!r} must be class numbers or names, got {odd[0]}; "
            "fractions and infinity are no classes: save whole numbers, or text"
        )
    return np.ma.MaskedArray(numbers.filled(0).astype(np.int64), np.ma.getmaskarray(numbers))


def _clean_each(split: str, values: list) -> np.ma.MaskedArray:
    """Clean objects one by one: text and bytes, or numbers."""
    is_absent = np.array([_is_absent(value) for value in values])
    kinds = {_kind(value) for value, absent in zip(values, is_absent, strict=True) if not absent}
    if len(kinds) > 1 or not kinds <= {"names", "numbers"}:
        raise UserError(
            f"labels of split {split!r} must be class numbers or names, got {' and '.join(sorted(kinds))}; use one kind"
        )
    if kinds == {"numbers"}:
        numbers = [0 if absent else value for value, absent in zip(values, is_absent, strict=True)]
        exact = np.int64 if all(isinstance(value, Integral) and abs(value) < 2**63 for value in numbers) else np.float64
        return np.ma.MaskedArray(np.array(numbers, exact), is_absent)
    names = ["" if absent else as_name(value) for value, absent in zip(values, is_absent, strict=True)]
    check_names(f"labels of split {split!r}", names)
    return np.ma.MaskedArray(np.array(names, dtype=str), is_absent)


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes) and not value.strip()) or value != value  # NaN


def _kind(value: Any) -> str:
    if isinstance(value, str | bytes):
        return "names"
    return "numbers" if isinstance(value, Real | np.bool_) else f"{type(value).__name__} ({str(value)[:40]})"


def as_name(value: str | bytes) -> str:
    """Return a name in Unicode's normal form C: the same accented name is spelt with other bytes by macOS."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return unicodedata.normalize("NFC", text)


def check_names(what: str, names: Sequence[str]) -> None:
    """Refuse names that are no UTF-8, all at once; they come from file systems and bytes in other encodings.

    Raises:
        UserError: with the odd bytes escaped, as in caf\\xe9.
    """
    odd = [name for name in dict.fromkeys(names) if not _is_utf8(name)]
    if odd:
        spelt = ", ".join(escaped(name) for name in odd[:10]) + (", ..." if len(odd) > 10 else "")
        raise UserError(
            f"{what}: {len(odd)} not in UTF-8: {spelt}; rename what is not (bytes behind \\x are of another encoding, "
            "often Latin-1)"
        )


def escaped(name: str) -> str:
    """Return a name that can be printed anywhere, with bytes that are no UTF-8 as \\x.."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def number_classes(
    labels: dict[str, Sequence | np.ndarray], names: list[str] | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Map labels to 0..num_classes-1.

    Args:
        labels: (N,) numbers or names of each split, see `clean_labels`.
        names: of the labels 0, 1, ...; None: labels are named after themselves, in ascending order.

    Returns:
        Class names, and (N,) int64 labels of each split; -1 where there is none.

    Raises:
        UserError: all that is wrong with them at once.
    """
    clean, faults = {}, []
    for split, values in labels.items():
        try:
            clean[split] = clean_labels(split, values)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(together(faults))
    if len({values.dtype.kind for values in clean.values()}) > 1:
        raise UserError("labels are numbers in one split and names in the other; use one kind")
    present = np.unique(np.concatenate([values.compressed() for values in clean.values()]))
    if names is not None:
        check_names("classes", names)
        _check_named(present, names)
    classes = [str(value) if names is None else names[value] for value in present.tolist()]
    numbered = {
        split: np.where(np.ma.getmaskarray(values), -1, np.searchsorted(present, np.ma.getdata(values)))
        for split, values in clean.items()
    }
    return classes, numbered


def _check_named(present: np.ndarray, names: list[str]) -> None:
    if present.dtype.kind == "U":
        raise UserError("labels are names already; class names can be given for numbers only")
    odd = [value for value in present.tolist() if not 0 <= value < len(names)]
    if odd:
        raise UserError(
            f"label {', '.join(map(str, odd[:10]))} is not one of the {len(names)} classes 0..{len(names) - 1}"
            + ("; a split without labels (all -1) cannot be used" if odd == [-1] else "")
        )
