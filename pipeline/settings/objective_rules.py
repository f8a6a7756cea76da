"""What an objective asks of the settings around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from pipeline.catalogue.validation import Strict, explain
from pipeline.losses.objective import objective_class
from pipeline.losses.projected import Objective
from pipeline.losses.univariate import STATISTICS
from pipeline.runtime.errors import did_you_mean
from pipeline.schema.pretrain import Pretrain


def objective_problems(pretrain: Pretrain, lambdas: Sequence[Any]) -> list[str]:
    """Return what is wrong with the objective of a cell and with the settings of all objectives.

    Args:
        pretrain: settings of the cell.
        lambdas: of the grid.
    """
    problems = [
        problem for name in pretrain.objectives for problem in _settings_problems(name, pretrain.objectives[name])
    ]
    try:
        kind = objective_class(pretrain.objective)
    except ValueError as error:
        return [f"pretrain.objective: {error}", *problems]
    return [*problems, *_misfits(kind, pretrain, lambdas)]


def _settings_problems(name: str, told: dict[str, Any]) -> list[str]:
    where = ("pretrain", "objectives", name)
    if name == "lejepa":
        return ["pretrain.objectives.lejepa: the settings of lejepa stand in pretrain.sigreg; move them there"]
    try:
        kind = objective_class(name)
        kind(**_settings_model(kind).model_validate(told).model_dump())
    except ValidationError as error:
        return explain(error, _settings_model(kind), prefix=where)
    except ValueError as error:
        return [f"{'.'.join(where)}: {error}"]
    return []


def _settings_model(kind: type[Objective]) -> type[Strict]:
    """Return the section that the fields of an objective make."""
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__name__} must be a frozen dataclass, whose fields are its settings")
    hints = get_type_hints(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    required = {name: ... if default is dataclasses.MISSING else default for name, default in defaults.items()}
    return create_model(kind.__name__, __base__=Strict, **{name: (hints[name], required[name]) for name in required})


def _misfits(kind: type[Objective], pretrain: Pretrain, lambdas: Sequence[Any]) -> Iterator[str]:
    name, views = pretrain.objective, pretrain.views
    if name == "lejepa" and pretrain.sigreg.statistic not in STATISTICS:
        statistic = pretrain.sigreg.statistic
        yield f"unknown statistic {statistic!r} in pretrain.sigreg.statistic{did_you_mean(statistic, STATISTICS)}"
    if views.num_global + views.num_local < kind.min_views:
        yield (
            f"pretrain.views must have >= {kind.min_views} views an image for pretrain.objective {name}, got "
            f"{views.num_global} global and {views.num_local} local; raise pretrain.views.num_global"
        )
    if kind.uses_lambda:
        return
    if len(lambdas) > 1:
        yield (
            f"grid.lambdas must be a single value for pretrain.objective {name}, which has no lambda, got "
            f"{', '.join(map(str, lambdas))}; keep one, or compare it in a pipeline of its own (docs/objectives.md)"
        )
    for section in ("predictor", "swa"):
        if getattr(pretrain, section).enabled:
            yield (
                f"pretrain.{section}.enabled must be false for pretrain.objective {name}, which has no "
                "prediction loss; set it to false"
            )
