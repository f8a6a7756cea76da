"""The objectives by name, and the objective of a run.

Legend: V views (Vg global), B images, K projection, C outputs of a head.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.losses.barlow_twins import BarlowTwins
from pipeline.losses.byol import BYOL
from pipeline.losses.conventions import weight
from pipeline.losses.kerjepa import KSDIMQ, MMD
from pipeline.losses.lejepa import directions_for_step, lejepa_loss
from pipeline.losses.projected import Objective, Projected, check_positive
from pipeline.losses.simclr import SimCLR
from pipeline.losses.supervised import Supervised
from pipeline.losses.univariate import statistic_by_name
from pipeline.losses.vicreg import VICReg
from pipeline.losses.visreg import VISReg
from pipeline.losses.weak_sigreg import WeakSIGReg
from pipeline.runtime.errors import did_you_mean

CLONE = Path(__file__).parents[2]
OWN = re.compile(r"objectives(\.[A-Za-z_]\w*){2,}")


@dataclass(frozen=True)
class LeJEPA(Objective):
    """Prediction loss and SIGReg (`losses.lejepa`); settings: the section `pretrain.sigreg`.

    `statistic` is a name of losses.univariate, `num_slices` S; the characteristic functions are compared on [-t_max,
    t_max] at `num_knots` points of [0, t_max].
    """

    statistic: str = "epps_pulley"
    num_slices: int = 1024
    t_max: float = 3.0
    num_knots: int = 17

    uses_lambda: ClassVar[bool] = True
    fixes_scale: ClassVar[bool] = True
    min_views: ClassVar[int] = 1
    sums_over_ranks: ClassVar[bool] = True
    sums_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the slices; the rest is checked where it is used."""
        check_positive(num_slices=self.num_slices)

    def __call__(self, seen: Projected) -> dict[str, Tensor]:
        """Return loss, pred_loss and sigreg_loss, with fresh directions at every step."""
        z = seen.projections
        chosen = None
        if self.statistic != "epps_pulley":
            chosen = statistic_by_name(self.statistic, t_max=self.t_max, num_knots=self.num_knots)
        result = lejepa_loss(
            z,
            directions_for_step(seen.seed, seen.step, z.shape[-1], self.num_slices, device=z.device),
            num_global=seen.num_global,
            lamb=seen.lamb,
            t_max=self.t_max,
            num_knots=self.num_knots,
            statistic=chosen,
            predictions=seen.predictions,
            centre=None if seen.targets is None else seen.targets.mean(0),
        )
        return result._asdict()


OBJECTIVES: dict[str, type[Objective]] = {
    "lejepa": LeJEPA,
    "visreg": VISReg,
    "weak_sigreg": WeakSIGReg,
    "mmd": MMD,
    "ksd_imq": KSDIMQ,
    "vicreg": VICReg,
    "barlow_twins": BarlowTwins,
    "simclr": SimCLR,
    "byol": BYOL,
    "supervised": Supervised,
}


def objective_class(name: str) -> type[Objective]:
    """Return the objective of a name: of OBJECTIVES, or objectives.<file>.<Class> of a file in the clone's objectives/.

    Raises:
        ValueError: an unknown name, a file that is not there or fails, or a class that is no objective.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if not is_own(name):
        own = "objectives.<file>.<Class> of a file in objectives/ (docs/objectives.md)"
        raise ValueError(f"unknown objective {name!r}{did_you_mean(name, OBJECTIVES)}, and {own}")
    if str(CLONE) not in sys.path:
        sys.path.append(str(CLONE))
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever a user's file raises
        raise ValueError(f"objective {name!r}: {module} does not import ({type(error).__name__}: {error})") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ValueError(f"objective {name!r}: {attribute} must be a subclass of Objective (pipeline.losses.projected)")
    return found


def is_own(name: str) -> bool:
    """Return whether a name is of the form objectives.<file>.<Class>, a user's own objective."""
    return OWN.fullmatch(name) is not None


def make_objective(name: str, settings: Mapping[str, Any]) -> Objective:
    """Return the objective of a name with these settings; what they lack has its default."""
    return objective_class(name)(**settings)


@dataclass(frozen=True)
class RunObjective:
    """An objective with what a run adds to it: lambda, the number of global views, the seed of its random draws."""

    objective: Objective
    lamb: float
    num_global: int
    seed: int

    def weighing(self, batch_size: int) -> dict[str, Any]:
        """Return what lambda means in this run: w (None: infinite), N, pooling and the loss as a formula.

        Nothing for an objective that lambda does not weigh.
        """
        if not self.objective.uses_lambda:
            return {}
        num_samples = batch_size if self.objective.sums_samples else 1
        w = weight(self.lamb, num_samples)
        return {
            "w": w if math.isfinite(w) else None,
            "num_samples": batch_size,
            "pooling": "each view",
            "convention": "(1 - lambda) * pred_loss + lambda * regulariser",
        }

    def __call__(self, projections: Tensor, step: int, **seen: Tensor | None) -> dict[str, Tensor]:
        """Return loss and parts of one step over all processes, in full precision under autocast.

        Args:
            projections: (V, B, K), the global views first.
            step: >= 0.
            seen: predictions (V, B, C), targets (Vg, B, K), labels (B,), as `Projected` has them.
        """
        projected = Projected(projections, self.num_global, self.lamb, self.seed, step, **seen)
        if self.objective.sums_over_ranks:
            return self.objective(projected)
        with torch.autocast(projections.device.type, enabled=False):
            return self.objective(projected.over_ranks())


def build_objective(name: str, settings: Mapping[str, Any], *, lamb: float, num_global: int, seed: int) -> RunObjective:
    """Build the objective of a run: a name and its settings, lambda, Vg, and the seed of its random draws."""
    return RunObjective(make_objective(name, settings), lamb, num_global, seed)
