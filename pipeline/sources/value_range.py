"""White level of an array, from its type and range."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.runtime.errors import UserError

_DARK_FRAC = 0.25  # of white; an array without a brighter value is scaled wrongly
_BIT_DEPTHS = (8, 10, 12, 14, 16)


class ValueRange(NamedTuple):
    """Lowest and highest value of an array, and its type; both are NaN if any value is."""

    low: float
    high: float
    dtype: np.dtype

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"{spelt(self.low)}..{spelt(self.high)} of {self.dtype}"


def white_of(key: str, found: ValueRange, max_value: float | None) -> float:
    """Return the value that stands for white.

    Args:
        key: of the array, for messages.
        found: its range.
        max_value: the setting; None: booleans, whole numbers 0 and 1, and floats up to 1 have white 1; other values up
            to 255 have 255; uint16 has 65535.

    Raises:
        UserError: values that are negative, not finite or beyond white, images that would come out nearly black, or a
            type and range that say nothing; with the `max_value` to set.
    """
    low, high = found.low, found.high
    if not np.isfinite([low, high]).all():
        raise UserError(f"{key!r} must be finite numbers, got {found}; save it without NaN and infinity")
    if low < 0:
        raise UserError(
            f"{key!r} must have no negative values, got {found}; shift and scale it to 0..255 and save it as uint8"
        )
    white = max_value or _white_of_type(found)
    if white is None:
        raise UserError(f"{key!r} has values {found}, which say nothing of white; set max_value: {_likely_white(high)}")
    if high > white:
        raise UserError(
            f"{key!r} must be within 0..max_value = {spelt(white)}, got {found}; set max_value: {_likely_white(high)}"
        )
    if 0 < high < _DARK_FRAC * white:
        raise UserError(
            f"{key!r} has values {found}, nearly black where {spelt(white)} is white; set max_value: "
            f"{_likely_white(high)}"
        )
    return white


def _white_of_type(found: ValueRange) -> float | None:
    if found.dtype.kind == "b" or found.high <= 1:
        return 1
    if found.dtype == np.uint16:
        return 65535
    return 255 if found.high <= 255 else None


def _likely_white(high: float) -> str:
    """Return the white that such a range suggests: of the next bit depth, or for small ranges the value itself."""
    whites = [2**bits - 1 for bits in _BIT_DEPTHS]
    return spelt(next((white for white in whites if _DARK_FRAC * white <= high <= white), high))


def spelt(value: float) -> str:
    """Return a number as it can be typed, exactly."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
