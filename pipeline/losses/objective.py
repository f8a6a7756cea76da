"""The objective of a run, built from its settings: fresh directions at every step, then the LeJEPA loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipeline.losses.lejepa import LeJEPALoss, directions_for_step, lejepa_loss
from pipeline.losses.univariate import statistic_by_name

Objective = Callable[..., LeJEPALoss]


def lejepa_objective(
    *,
    lamb: float,
    num_global: int,
    seed: int,
    proj_dim: int,
    statistic: str,
    num_slices: int,
    t_max: float,
    num_knots: int,
) -> Objective:
    """Return the objective of a run: fresh directions at every step, then the LeJEPA loss.

    Args:
        lamb: weight of SIGReg; the prediction loss has 1 - lamb.
        num_global: Vg, the first views of the projections.
        seed: of the directions.
        proj_dim: K.
        statistic: a name of losses.univariate.
        num_slices: S.
        t_max: the characteristic functions are compared on [-t_max, t_max].
        num_knots: T on [0, t_max].
    """
    chosen = None if statistic == "epps_pulley" else statistic_by_name(statistic, t_max=t_max, num_knots=num_knots)

    def objective(projections: Tensor, step: int, **target: Tensor | None) -> LeJEPALoss:
        directions = directions_for_step(seed, step, proj_dim, num_slices, device=projections.device)
        return lejepa_loss(
            projections,
            directions,
            num_global=num_global,
            lamb=lamb,
            t_max=t_max,
            num_knots=num_knots,
            statistic=chosen,
            **target,
        )

    return objective


def build_objective(config: dict[str, Any]) -> Objective:
    """Build the objective that a cell's pretrain.json describes."""
    settings = config["pretrain"]
    shape = {"num_global": settings["views"]["num_global"], "proj_dim": settings["projector"]["proj_dim"]}
    return lejepa_objective(lamb=config["lambda"], seed=config["seed"], **shape, **settings["sigreg"])
