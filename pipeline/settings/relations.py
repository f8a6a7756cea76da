"""Rules between sections of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from pipeline.runtime.errors import did_you_mean
from pipeline.schema.parameters import Params

WILD = "*?["


def broken_relations(params: Params, *, root: bool) -> Iterator[str]:
    """Yield a line for each broken rule: overrides and names against each other.

    Args:
        params: of a file that is validated section by section.
        root: whether the cells are stages of dvc.yaml's matrices, which join names with "-".
    """
    yield from _unknown_in_overrides(params)
    yield from _same_but_for_case("grid.datasets and density.sets", [*params.grid.datasets, *params.density.sets])
    yield from _same_but_for_case("grid.backbones", params.grid.backbones)
    if root:
        axes = params.grid
        yield from _same_stage("score", {"grid.datasets": axes.datasets, "grid.datasets again": axes.datasets})
        names = {"grid.datasets": axes.datasets, "grid.backbones": axes.backbones}
        yield from _same_stage("pretrain", {**names, "grid.lambdas": axes.lambdas, "grid.seeds": axes.seeds})


def _unknown_in_overrides(params: Params) -> Iterator[str]:
    for index, override in enumerate(params.overrides):
        name = override.when.dataset
        if name not in params.datasets and not any(sign in name for sign in WILD):
            guess = did_you_mean(name, params.datasets)
            yield f"unknown data set {name!r} in overrides.{index}.when.dataset{guess}; a pattern has a '*'"


def _same_but_for_case(where: str, names: Sequence[str]) -> Iterator[str]:
    """Find names that are one folder on a disk that does not tell upper from lower case."""
    spelled: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if (other := spelled.setdefault(name.lower(), name)) != name:
            yield f"{where} must differ in more than upper and lower case, got {other} and {name}; rename one"


def _same_stage(stage: str, axes: dict[str, Sequence]) -> Iterator[str]:
    """Find two combinations that DVC would give one name, of which it would run one alone."""
    found: dict[str, tuple] = {}
    for values in product(*axes.values()):
        name = "-".join(map(str, values))
        if (other := found.setdefault(name, values)) != values:
            both = " and ".join(" with ".join(map(str, pair)) for pair in (other, values))
            yield f"grid: {both} would be one stage of DVC, {stage}@{name}; rename a data set"
            return
