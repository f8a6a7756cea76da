"""Validation messages that name the params.yaml path, the rule, the value and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from pipeline.runtime.errors import UserError, did_you_mean


class Strict(BaseModel):
    """A section of params.yaml: unknown keys are errors, `"5"` and `true` are no numbers, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, raw: Any) -> Any:
        """Take a section with nothing under its name for one that is not there."""
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or not cls._is_section(key)}

    @classmethod
    def _is_section(cls, key: str) -> bool:
        kind = cls.model_fields[key].annotation if key in cls.model_fields else None
        return isinstance(kind, type) and issubclass(kind, Strict)


Section = TypeVar("Section", bound=Strict)


class ParamsError(UserError):
    """params.yaml breaks rules; the message lists every one with its path, value and remedy."""

    def __init__(self, source: str, problems: list[str]) -> None:
        """Args: source names the file; problems has one line each."""
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{source} has {len(problems)} problem{'s' * (len(problems) > 1)}:\n{lines}")
        self.problems = problems


def read_yaml(path: str | Path) -> dict:
    """Read a parameter file as plain data, with the parser of DVC: it and we must see the same values.

    That is YAML 1.2: 1e-3 is a number, `no` is text, 010 is ten, and a key that is written twice is an error.

    Raises:
        ParamsError: if it is absent, not YAML, or not a mapping.
    """
    text = ""
    try:
        text = Path(path).read_text(encoding="utf-8")
        raw = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise ParamsError(str(path), ["the file does not exist; run from the repository root"]) from None
    except MarkedYAMLError as error:
        line = min(error.problem_mark.line + 1, len(text.splitlines()))  # an open bracket is noticed at the end
        raise ParamsError(str(path), [f"not YAML in line {line}: {error.problem}"]) from None
    except OSError as error:
        raise ParamsError(str(path), [f"the file cannot be read: {error.strerror}"]) from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no such day as 2026-02-30, ...
        raise ParamsError(str(path), [f"not readable as YAML: {error}"]) from None
    if not isinstance(raw, dict):
        raise ParamsError(str(path), [f"must be a mapping of sections, got {type(raw).__name__}"])
    return raw


def read_section(path: str | Path, name: str, kind: type[Section]) -> Section:
    """Read one section of a parameter file alone.

    Raises:
        ParamsError: an unreadable file, or a section that is absent or breaks a rule.
    """
    try:
        return kind.model_validate(read_yaml(path).get(name, {}))
    except ValidationError as error:
        raise ParamsError(str(path), explain(error, kind, prefix=(name,))) from None


def explain(error: ValidationError, model: Any, prefix: tuple = ()) -> list[str]:
    """Turn a pydantic error into one line per broken rule: `path rule, got value`."""
    return list(dict.fromkeys(_line(item, model, prefix) for item in error.errors(include_url=False)))


def _line(item: dict, model: Any, prefix: tuple) -> str:
    loc, kind = item["loc"], item["type"]
    where = ".".join(str(part) for part in (*prefix, *_without_tags(loc, model)))
    if kind == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        return f"unknown key {where}{did_you_mean(str(loc[-1]), known)}"
    if kind == "missing":
        return f"{where} is required; add it"
    if kind == "union_tag_invalid":
        given = item["ctx"]["tag"]
        return f"{where}.source: unknown source {given!r}{did_you_mean(given, _tags(item['ctx']['expected_tags']))}"
    if kind == "union_tag_not_found":
        return f"{where}.source is required; add one of the sources the README lists"
    if kind in ("list_type", "model_type", "dict_type"):
        return f"{where} must be {_container(kind, where.rpartition('.')[2], item['input'])}"
    rule = item["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("List ")
    rule = rule.replace("should", "must")
    value = "" if kind == "value_error" or isinstance(item["input"], dict) else f", got {item['input']!r}"
    if kind in ("int_type", "float_type") and _is_number(item["input"]):
        value += "; write it without quotes"
    # A rule over several keys of a section starts with the path, from there, of the one to change.
    joint = "." if rule.split()[0].partition(".")[0] in _fields_at(model, loc) else " "
    return f"{where}{joint}{rule}{value}" if where else f"{rule}{value}"


def _container(kind: str, key: str, value: Any) -> str:
    """Say what belongs in place of a value that is no list or no section, with how to write it."""
    if kind != "list_type":
        got = "a list" if isinstance(value, list) else repr(value)
        return f"a section, keys with values under it, got {got}; write one key a line, indented under it"
    if value is None:
        return f"a list, got nothing; write {key}: [...] with values in it, or leave {key} out where it has a default"
    if isinstance(value, dict):
        return f"a list, got a section; write {key}: [...], or its entries as lines that begin with '-'"
    return f"a list, got {value!r}; write {key}: [{value}]"


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _tags(text: str) -> list[str]:
    return [tag.strip(" '") for tag in text.split(",")]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models(arg)]


def _tag_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("source")
    return get_args(field.annotation)[0] if field and get_args(field.annotation) else None


def _walk(model: Any, loc: tuple) -> tuple[list[type[BaseModel]], list]:
    """Follow a pydantic location; the tag of a discriminated union is dropped from the path."""
    models, path = _models(model), []
    for part in loc:
        tagged = [m for m in models if part == _tag_of(m)]
        if tagged and len(models) > 1:
            models = tagged
            continue
        path.append(part)
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            models = [m for field in fields for m in _models(field.annotation)]
    return models, path


def _without_tags(loc: tuple, model: Any) -> list:
    return _walk(model, loc)[1]


def _fields_at(model: Any, loc: tuple) -> list[str]:
    return [name for m in _walk(model, loc)[0] for name in m.model_fields]
