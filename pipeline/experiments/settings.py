"""Settings of a synthetic experiment: one section of its params.yaml as a frozen dataclass, checked at the door.

A dataclass checks itself in `__post_init__` with the functions here; their messages start with the section's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pipeline.catalogue.validation import did_you_mean, read_yaml
from pipeline.runtime.errors import UserError

T = TypeVar("T")


def read_settings(path: str | Path, section: str, kind: type[T]) -> T:
    """Read one section of a parameter file.

    Args:
        path: the YAML file.
        section: its key.
        kind: a dataclass whose fields are the section's keys, all of them required; lists become tuples.

    Raises:
        UserError: a key that is unknown or missing, or a value that the dataclass refuses.
    """
    values = read_yaml(path).get(section)
    if not isinstance(values, dict):
        raise UserError(f"{path}: {section} must be a mapping of settings, got {values!r}; add it")
    known = [field.name for field in fields(kind)]
    problems = [f"unknown key {section}.{key}{did_you_mean(str(key), known)}" for key in values if key not in known]
    problems += [f"{section}.{key} is required; add it" for key in known if key not in values]
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise a UserError unless `value` is a whole number >= low."""
    if type(value) is not int or value < low:
        raise UserError(f"{name} must be a whole number >= {low}, got {value!r}")


def check_number(name: str, value: Any, *, above: float) -> None:
    """Raise a UserError unless `value` is a finite number > above."""
    if type(value) not in (int, float) or not above < value < float("inf"):
        raise UserError(f"{name} must be a number > {above:g}, got {value!r}")


def check_distinct(name: str, values: Any) -> None:
    """Raise a UserError unless `values` came from a list with at least one entry and none twice."""
    if not isinstance(values, tuple) or not values or len(set(values)) < len(values):
        raise UserError(f"{name} must be a list of one or more different values, got {values!r}")


def check_names(name: str, values: Any, known: Iterable[str]) -> None:
    """Raise a UserError unless `values` came from a list of different names out of `known`."""
    check_distinct(name, values)
    for value in values:
        if value not in (names := list(known)):
            raise UserError(f"{name} has the unknown entry {value!r}{did_you_mean(str(value), names)}")


def check_whole_list(name: str, values: Any, low: int) -> None:
    """Raise a UserError unless `values` came from a list of different whole numbers >= low."""
    check_distinct(name, values)
    for value in values:
        check_whole(name, value, low)
