"""From a parameter file to validated settings; all errors are reported at once.

Settings are checked here once, at the door; what leaves is typed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.catalogue.validation import ParamsError, Strict, explain, read_yaml
from pipeline.runtime.errors import did_you_mean
from pipeline.runtime.project import root_params, shown
from pipeline.schema.parameters import BackboneRule, Params
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe
from pipeline.settings.cells import Cell, Resolver, grid_cells, merge
from pipeline.settings.relations import broken_relations

BACKBONE_LIST = "backbones.txt"


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file: `open_params` where the settings of cells are not asked for."""
    return open_params(path).params


def open_params(path: str | Path = "params.yaml") -> Resolver:
    """Read and validate a parameter file; return it with the settings of its cells.

    A file without `datasets` or `models` takes these catalogues from the root's params.yaml.

    Args:
        path: YAML file with the sections of `Params`.

    Raises:
        ParamsError: naming every broken rule at once: unknown keys, wrong types, values out of range, data sets that
            the catalogue lacks, overrides that do not fit. Backbone names are checked where timm is loaded.
    """
    raw = read_sections(path)
    problems = _list_backbones(raw, Path(path))
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, Params)
    problems += [*_unknown_names(raw), *_bad_overrides(raw), *_idle_axes(raw)]
    if problems:
        raise ParamsError(str(path), problems)
    resolver = Resolver(params)
    root = Path(path).resolve().parent == Path.cwd()
    problems += _bad_combinations(resolver) or broken_relations(params, root=root)
    if problems:
        raise ParamsError(str(path), problems)
    return resolver


def read_sections(path: str | Path) -> dict[str, Any]:
    """Read a parameter file with what it takes from others: the catalogues of the root and its `based_on`.

    Raises:
        ParamsError: if a file is absent, not YAML, or based on one that is itself based on another in a circle.
    """
    raw = _with_base(_told(path), Path(path), ())
    missing = [name for name in ("datasets", "models") if name not in raw]
    if not missing or Path(path).resolve() == root_params() or not root_params().exists():
        return raw
    root = _told(root_params())
    return {**raw, **{name: root[name] for name in missing if name in root}}


def _told(path: str | Path) -> dict[str, Any]:
    """Read a file's sections; one with nothing under its name is one that is not there."""
    return {name: section for name, section in read_yaml(path).items() if section is not None}


def bases(path: str | Path) -> list[Path]:
    """Return the parameter files that a file is based on, nearest first."""
    base = read_yaml(path).get("based_on")
    if not isinstance(base, str):
        return []
    above = Path(path).parent.parent / base / "params.yaml"
    return [above, *bases(above)]


def _with_base(raw: dict, path: Path, seen: tuple[Path, ...]) -> dict:
    base = raw.get("based_on")
    if not isinstance(base, str):
        return raw
    above = path.parent.parent / base / "params.yaml"
    if above in seen:
        raise ParamsError(str(path), [f"based_on goes in a circle: {' -> '.join(map(str, (*seen, above)))}"])
    whole = _with_base(_told(above), above, (*seen, path))
    inherited = {name: whole[name] for name in ("pretrain", "probe", "overrides") if name in whole}
    return merge(inherited, raw)


def backbone_rule(path: str | Path) -> BackboneRule | None:
    """Return the rule in grid.backbones, or None where it is a list of names.

    Raises:
        ParamsError: if it is a mapping but no rule.
    """
    rule = _section(read_yaml(path), "grid", dict).get("backbones")
    if not isinstance(rule, dict):
        return None
    try:
        return BackboneRule.model_validate(rule)
    except ValidationError as error:
        raise ParamsError(str(path), explain(error, BackboneRule, ("grid", "backbones"))) from None


def read_backbones(path: Path) -> list[str]:
    """Read a list of timm names, one a line; text after `#` is a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _list_backbones(raw: dict, path: Path) -> list[str]:
    """Put the names of backbones.txt where grid.backbones holds a rule; return the problems."""
    if not isinstance(_section(raw, "grid", dict).get("backbones"), dict):
        return []
    listing = path.with_name(BACKBONE_LIST)
    names = read_backbones(listing) if listing.exists() else []
    raw["grid"] = {**raw["grid"], "backbones": names}
    if names:
        return []
    remedy = f"run: python -m stages.expand {shown(path.parent)}"
    return [f"grid.backbones is a rule and {listing} does not list it yet; {remedy}"]


def _section(raw: dict, name: str, kind: type) -> Any:
    value = raw.get(name)
    return value if isinstance(value, kind) else kind()


def _unknown_names(raw: dict) -> Iterator[str]:
    kinds = (
        ("grid", "datasets", "data set", "datasets"),
        ("grid", "targets", "data set", "datasets"),
        ("grid", "models", "model", "models"),
        ("density", "sets", "data set", "datasets"),
    )
    for section, key, what, catalogue in kinds:
        known = [str(name) for name in _section(raw, catalogue, dict)]
        for name in _section(_section(raw, section, dict), key, list):
            if isinstance(name, str) and name not in known:
                remedy = f"{did_you_mean(name, known)}; add it under {catalogue}:"
                yield f"unknown {what} {name!r} in {section}.{key}{remedy}"


def _bad_overrides(raw: dict) -> Iterator[str]:
    """Check each override on top of its section, so that a typo inside it is named by its own path."""
    for index, override in enumerate(_section(raw, "overrides", list)):
        for name, model in (("pretrain", Pretrain), ("probe", Probe)):
            change = override.get(name) if isinstance(override, dict) else None
            if not isinstance(change, dict):
                continue
            base = _section(raw, name, dict)
            before = set(_problems(model, base, ("overrides", index, name)))
            yield from (p for p in _problems(model, merge(base, change), ("overrides", index, name)) if p not in before)


def _idle_axes(raw: dict) -> Iterator[str]:
    """Name axes that overrides ask for but the grid lacks, and axes of the grid that nothing acts on."""
    axes = _section(_section(raw, "grid", dict), "axes", dict)
    used = set()
    for index, override in enumerate(_section(raw, "overrides", list)):
        when = _section(override, "when", dict) if isinstance(override, dict) else {}
        for name in _section(when, "axes", dict):
            used.add(name)
            if name not in axes:
                yield f"unknown axis {name!r} in overrides.{index}.when.axes{did_you_mean(str(name), map(str, axes))}"
    for name, axis in axes.items():
        if isinstance(axis, dict) and not axis.get("sets") and name not in used:
            yield f"grid.axes.{name} changes nothing; give it `sets`, or an override with when.axes.{name}"


def _bad_combinations(resolver: Resolver) -> list[str]:
    """Check the settings of every cell: overrides that are sound one by one may not be together."""
    cells = grid_cells(resolver.params, "any")
    times = Counter(cell.key for cell in cells)
    found = [
        f"grid has {num} cells of the name {key}; remove what is there twice" for key, num in times.items() if num > 1
    ]
    first: dict[tuple, Cell] = {}
    for cell in cells:
        first.setdefault(resolver.pattern(cell), cell)
    for cell in first.values():
        try:
            resolver(cell)
        except ValidationError as error:
            with_axes = " and ".join(f"{axis} {value}" for axis, value in cell.choices)
            where = f"overrides of {cell.dataset} with {' and '.join(filter(None, [cell.backbone, with_axes]))}"
            where += " together give"
            model, section = (Pretrain, "pretrain") if error.title == "Pretrain" else (Probe, "probe")
            found += [f"{where} {problem}" for problem in explain(error, model, prefix=(section,))]
    return list(dict.fromkeys(found))


def _problems(model: type[Strict], value: dict, prefix: tuple) -> list[str]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return explain(error, model, prefix=prefix)
    return []
