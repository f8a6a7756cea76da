"""Validation of an objective's settings, and of a user's own objective."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

import torch
from pydantic import Field, ValidationError, create_model
from torch import Tensor

from pipeline.catalogue.validation import Strict, explain
from pipeline.losses.objective import build_objective, is_own, make_objective, objective_class
from pipeline.losses.projected import Objective
from pipeline.losses.univariate import STATISTICS
from pipeline.runtime.errors import did_you_mean
from pipeline.schema.pretrain import Pretrain

HISTORY = ("epoch", "lr", "gradient_norm", "wait_frac", "projection_epps_pulley")
WATCHED = tuple(
    f"{what}_{fact}" for what in ("embedding", "projection") for fact in ("norm", "std", "rank", "isotropy")
)
METRICS = ("num_params", "embed_dim", "epochs", "num_images", "images_seen", "train_loss", "alarms", "collapsed")
WEIGHING = ("objective", "w", "num_samples", "pooling", "convention")
RESERVED = frozenset({*HISTORY, *WATCHED, *METRICS, *WEIGHING})
"""What a run writes to history.csv and metrics.json beside the parts of the loss."""
NUM_TRIED = 256
"""Images of the batch on which an own objective is tried, of smaller batches all."""
NUM_CLASSES = 10


def objective_problems(pretrain: Pretrain, lambdas: Sequence[Any]) -> list[str]:
    """Return what is wrong with the objective of a cell and with the settings of all objectives.

    An own objective without other problems is tried on one random batch.

    Args:
        pretrain: settings of the cell.
        lambdas: of the grid.
    """
    chosen = pretrain.objective
    problems = [problem for name, told in pretrain.objectives.items() for problem in _settings_problems(name, told)]
    try:
        kind = objective_class(chosen)
    except ValueError as error:
        return [f"pretrain.objective: {error}", *problems]
    if chosen != "lejepa" and chosen not in pretrain.objectives:
        problems += _settings_problems(chosen, {})
    problems += _misfits(kind, pretrain, lambdas)
    return problems if problems or not is_own(chosen) else _trial_problems(pretrain, float(lambdas[0]))


def _settings_problems(name: str, told: dict[str, Any]) -> list[str]:
    where = ("pretrain", "objectives", name)
    if name == "lejepa":
        return ["pretrain.objectives.lejepa: the settings of lejepa stand in pretrain.sigreg; move them there"]
    try:
        kind = objective_class(name)
        _settings_model(kind).model_validate(told)
        make_objective(name, told)
    except ValidationError as error:
        return explain(error, _settings_model(kind), prefix=where)
    except Exception as error:
        if not (is_own(name) or isinstance(error, ValueError)):
            raise
        return [f"{'.'.join(where)}: {_said(error)}"]
    return []


def _settings_model(kind: type[Objective]) -> type[Strict]:
    """Return the section that the fields of an objective make."""
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__name__} must be a frozen dataclass, whose fields are its settings")
    hints = get_type_hints(kind)
    fields = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind) if field.init}
    return create_model(kind.__name__, __base__=Strict, **fields)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def _trial_problems(pretrain: Pretrain, lamb: float) -> list[str]:
    """Return what is wrong with the chosen objective's answer to a random batch, in one line, if anything is."""
    try:
        with torch.random.fork_rng(devices=[]):
            wrong = _wrong_answer(_answer(pretrain, lamb))
    except Exception as error:  # whatever a user's class raises
        wrong = f"fails on a random batch of projections: {_said(error)}"
    return [f"pretrain.objective {pretrain.objective} {wrong} (docs/objectives.md)"] if wrong else []


def _answer(pretrain: Pretrain, lamb: float) -> Any:
    """Return what the chosen objective makes of a step of a run, with normal projections (V, B, K)."""
    views, proj_dim = pretrain.views, pretrain.projector.proj_dim
    shape = views.num_global + views.num_local, min(pretrain.batch_size, NUM_TRIED)
    run = build_objective(
        pretrain.objective, pretrain.objective_settings(), lamb=lamb, num_global=views.num_global, seed=0
    )
    torch.manual_seed(0)
    projections = torch.randn(*shape, proj_dim, requires_grad=True)
    predictions = projections if pretrain.predictor.enabled else None
    if run.objective.needs_head:
        head = run.objective.head(proj_dim, NUM_CLASSES)
        predictions = head(projections.flatten(0, 1)).unflatten(0, shape)
    averaged = pretrain.swa.enabled or run.objective.target_decay(0.0) is not None
    targets = torch.randn(views.num_global, shape[1], proj_dim) if averaged else None
    labels = torch.arange(shape[1]) % NUM_CLASSES
    return run(projections, 0, predictions=predictions, targets=targets, labels=labels)


def _wrong_answer(answer: Any) -> str:
    """Say what an objective's answer must be and is not; "" if all is well."""
    if not isinstance(answer, dict) or not all(isinstance(part, Tensor) and not part.ndim for part in answer.values()):
        kinds = {name: _kind(part) for name, part in answer.items()} if isinstance(answer, dict) else _kind(answer)
        return f"must return scalar tensors by name, got {kinds}"
    if "loss" not in answer:
        return f"must return `loss`, which is minimised, got {', '.join(map(str, answer)) or 'nothing'}"
    if not answer["loss"].requires_grad:
        return "must return a `loss` that depends on the projections, got one without gradient"
    if odd := [name for name in answer if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name))]:
        return f"must name its parts with letters, digits and '_', got {', '.join(map(repr, odd))}"
    if taken := sorted(RESERVED & answer.keys()):
        return f"must not name a part {', '.join(taken)}, which history.csv or metrics.json has already; rename it"
    return ""


def _kind(part: Any) -> str:
    return f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__


def _said(error: Exception) -> str:
    """Return the first line of what an error says, with its kind if that is not ValueError, whose words are a rule."""
    line = str(error).partition("\n")[0]
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__}: {line}"


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
