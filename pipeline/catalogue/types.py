"""Kinds of values in params.yaml: ranges, colours, lambda, plain values."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

T = TypeVar("T")
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


def _safe(text: str) -> str:
    """Let nothing through that a shell, a path or the key of a cell would read in another way."""
    if not re.fullmatch(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*", text):
        raise ValueError(f"must be letters, digits and '_' joined by single '-' or '.', got {text!r}; rename it")
    return text


def _without_weights(name: str) -> str:
    """Refuse the name of published weights, which a backbone that is pretrained here would not have."""
    architecture, _, tag = name.partition(".")
    if tag:
        raise ValueError(
            f"must be an architecture, got {name!r}, which names published weights; pretraining starts from random "
            f"ones: write {architecture}. What is published is probed under models: and grid.models"
        )
    return name


def without_copies(values: list) -> list:
    """Refuse values that are equal, or spelled alike in the keys of cells (true and "true")."""
    equal, spelled = Counter(values), Counter(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
    twice = {str(value) for value in values if equal[value] > 1} | {
        text for text, count in spelled.items() if count > 1
    }
    if twice:
        raise ValueError(f"must not repeat a value, got {', '.join(sorted(twice))} more than once; remove the copies")
    return values


def _safe_value(value: Any) -> Any:
    return _safe(value) if isinstance(value, str) else value


SafeName = Annotated[str, AfterValidator(_safe)]
Architecture = Annotated[SafeName, AfterValidator(_without_weights)]
Lambda = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_written)]
PositiveAsWritten = Annotated[float, Field(gt=0), WrapValidator(_as_written)]
Distinct = Annotated[list[T], Field(min_length=1), AfterValidator(without_copies)]
Plain = Annotated[bool | int | float | str | None, WrapValidator(_plain)]
Value = Annotated[bool | int | float | str, WrapValidator(_plain), AfterValidator(_safe_value)]
