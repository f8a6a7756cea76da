"""Label-free criteria: which numbers of a run are one, and which way each is said to point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What a better representation is said to have. Losses: LeJEPA, figures 10 and 11. RankMe: arXiv 2210.02885. LiDAR:
# 2312.04000. alpha-ReQ: Agrawal et al., NeurIPS 2022, where a spectrum that decays with exponent 1 is best. The others:
# how near an embedding or a projection is to the isotropic Gaussian that LeJEPA aims at.
LOWER, HIGHER, NEAREST_ONE = "lower", "higher", "nearest 1"
DIRECTIONS = {
    "train_loss": LOWER,
    "pred_loss": LOWER,
    "sigreg_loss": LOWER,
    "heldout_loss": LOWER,
    "heldout_pred_loss": LOWER,
    "heldout_sigreg_loss": LOWER,
    "rankme": HIGHER,
    "stable_rank": HIGHER,
    "isotropy": HIGHER,
    "mean_cosine": LOWER,
    "alpha_req": NEAREST_ONE,
    "lidar": HIGHER,
    "projection_rankme": HIGHER,
    "projection_isotropy": HIGHER,
    "projection_lidar": HIGHER,
    "projection_epps_pulley": LOWER,
}
RULE = "train_loss"  # what picks runs, divided by lambda^a
SCALED = ("train_loss", "heldout_loss")  # weighed sums of both terms: comparable between lambdas after a division
STEPS = 20  # of a in [0, 1]; figure 11's axis


@dataclass(frozen=True)
class Run:
    """One trained and probed cell.

    Attributes:
        key: of the cell.
        dataset: name of the task: runs of one task are compared with each other, of two tasks never.
        backbone: timm name.
        lamb: lambda, in [0, 1].
        accuracy: on the test split, in [0, 1]: what runs are judged by.
        holdout: on held-out training images, in [0, 1]: what labels would have picked; None where not measured.
        values: the label-free numbers, by names of DIRECTIONS; finite.
        trained_on: device, processor and commit of the pretraining.
    """

    key: str
    dataset: str
    backbone: str
    lamb: float
    accuracy: float
    holdout: float | None
    values: Mapping[str, float] = field(default_factory=dict)
    trained_on: str = ""


@dataclass(frozen=True)
class Criterion:
    """A number that orders runs without labels.

    Attributes:
        name: of DIRECTIONS.
        a: the number is divided by lambda^a; None for numbers that are taken as they are.
    """

    name: str
    a: float | None = None

    def goodness(self, run: Run) -> float | None:
        """Return the criterion turned so that more is better; None where it is not defined.

        That is where the run lacks the number, and for lambda 0 with a > 0.
        """
        value = run.values.get(self.name)
        if value is None or (self.a and not run.lamb):
            return None
        if self.a:
            value /= run.lamb**self.a
        direction = DIRECTIONS[self.name]
        if direction == LOWER:
            return -value
        if direction == HIGHER:
            return value
        if direction == NEAREST_ONE:
            return -abs(value - 1)
        raise ValueError(f"unknown direction {direction!r} of {self.name}")

    @property
    def label(self) -> str:
        """The criterion as MLflow tags and pick files name it, e.g. train_loss/lambda^0.4."""
        return f"{self.name}/lambda^{self.a:g}" if self.a else self.name


def all_criteria(exponent: float) -> list[Criterion]:
    """List every criterion: train_loss / lambda^a over a grid of a, then the others.

    Args:
        exponent: a of the rule, in [0, 1]; on the grid if it was not.
    """
    exponents = sorted({step / STEPS for step in range(STEPS + 1)} | {exponent})
    found = [Criterion(RULE, a) for a in exponents]
    for name in DIRECTIONS:
        if name in SCALED:
            found += [Criterion(name, a) for a in sorted({0.0, exponent}) if name != RULE]
        else:
            found.append(Criterion(name))
    return found
