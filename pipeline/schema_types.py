"""Kinds of values in params.yaml: ranges, colours, lambda, plain values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Rgb = Annotated[list[float], Field(min_length=3, max_length=3)]


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> int | float:
    """Check a number but leave 1 an int: cell keys spell it as DVC does."""
    check(value)
    return value


def _plain(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check one value, with one message instead of one for each type that it might have had."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"must be true, false, a finite number, text or null, got {value!r}") from None


Lambda = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_written)]
Plain = Annotated[bool | int | float | str | None, WrapValidator(_plain)]
Value = Annotated[bool | int | float | str, WrapValidator(_plain)]
