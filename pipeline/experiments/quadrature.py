"""Error of the trapezoid rule of the Epps-Pulley integral, on distributions whose characteristic function is known.

    EP / N = integral_{-t_max}^{t_max} |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt    (population value: phi is exact)

The rule is the one of `pipeline.losses`, knots, weights and formula: phi takes the place of the empirical
characteristic function. What to expect: the odd derivatives of the even integrand vanish at 0, so by Euler-Maclaurin
all but an exponentially small part of the error comes from t_max: spacing^2 / 6 times the slope there. It is quadratic
in the spacing in the end, with a constant that falls like exp(-t_max^2 / 2); before that the error falls geometrically.

Source: LeJEPA, figure 20 (trapezoid error against the number of knots). It does not name its distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from scipy.integrate import quad

from pipeline.catalogue.types import Distinct, PositiveAsWritten
from pipeline.catalogue.validation import Strict
from pipeline.losses.lejepa import _knots

Knots = Annotated[int, Field(ge=2)]
CharacteristicFunction = Callable[[np.ndarray], np.ndarray]
ROUNDING = 1e-14  # smaller relative errors are rounding: the sums have tens of terms with one of 2e-16 each
TAIL = 12.0  # exp(-12^2 / 2) = 5e-32: beyond it the integrand is nothing in float64


def _real(values: np.ndarray) -> np.ndarray:
    return values + 0j


# All but the first four have mean 0 and variance 1: they differ from N(0, 1) in shape alone.
LAWS: dict[str, CharacteristicFunction] = {
    "constant 0 (collapse)": lambda t: _real(np.ones_like(t)),
    "N(1, 1)": lambda t: np.exp(1j * t - t**2 / 2),
    "N(0, 4)": lambda t: _real(np.exp(-2 * t**2)),
    "N(0, 1/4)": lambda t: _real(np.exp(-(t**2) / 8)),
    "Laplace": lambda t: _real(1 / (1 + t**2 / 2)),
    "uniform": lambda t: _real(np.sinc(math.sqrt(3) * t / math.pi)),
    "two points ±1": lambda t: _real(np.cos(t)),
    "two normals ±0.9": lambda t: _real(np.cos(0.9 * t) * np.exp(-0.19 * t**2 / 2)),
    "exponential − 1": lambda t: np.exp(-1j * t) / (1 - 1j * t),
}


class Settings(Strict):
    """Section `quadrature` of paper/figure20/params.yaml; the integrand ends at TAIL."""

    t_max: Distinct[Annotated[PositiveAsWritten, Field(le=TAIL)]] = Field(description="ends of the integration")
    num_knots: Distinct[Knots] = Field(description="T of every rule")
    slope_knots: Distinct[Knots] = Field(description="two or more, rising; slopes are taken between neighbours")

    @field_validator("slope_knots")
    @classmethod
    def _rising(cls, knots: list[int]) -> list[int]:
        if len(knots) < 2 or knots != sorted(knots):
            raise ValueError(f"must be two or more rising numbers, got {knots}")
        return knots


class Error(NamedTuple):
    """Error of one rule; relative errors are absolute values.

    Attributes:
        law: key of LAWS.
        t_max, num_knots: the rule.
        trapezoid: its value of EP / N.
        exact: the integral over [-t_max, t_max].
        relative_error: of the rule against `exact`.
        truncation_error: relative; of `exact` against the integral over all t.
    """

    law: str
    t_max: float
    num_knots: int
    trapezoid: float
    exact: float
    relative_error: float
    truncation_error: float


def trapezoid(phi: CharacteristicFunction, t_max: float, num_knots: int) -> float:
    """Return EP / N of a distribution by the rule of `pipeline.losses.epps_pulley`, in float64.

    Args:
        phi: the characteristic function; takes (H,) float64 knots, returns (H,) complex.
        t_max: upper end of the grid, > 0.
        num_knots: T >= 2 on [0, t_max].
    """
    grid = _knots(t_max, num_knots)
    values = phi(grid.spacing * np.arange(1, grid.num_harmonics + 1))
    sums = torch.from_numpy(np.concatenate([values.real, values.imag]))
    value, _ = grid.formula(sums[None], 1)
    return value.item()


def exact(phi: CharacteristicFunction, t_max: float) -> float:
    """Return the integral over [-t_max, t_max] by adaptive Gauss-Kronrod quadrature (scipy), to 12 digits."""

    def integrand(t: float) -> float:
        normal = math.exp(-t * t / 2)
        return 2 * abs(phi(np.float64(t)) - normal) ** 2 * normal

    return quad(integrand, 0, t_max, epsabs=0, epsrel=1e-12, limit=200)[0]


def measure(settings: Settings) -> list[Error]:
    """Return the error of every rule on every law."""
    rows = []
    for t_max, (law, phi) in product(settings.t_max, LAWS.items()):
        inside, whole = exact(phi, t_max), exact(phi, TAIL)
        for num_knots in settings.num_knots:
            value = trapezoid(phi, t_max, num_knots)
            rows.append(Error(law, t_max, num_knots, value, inside, abs(value / inside - 1), abs(inside / whole - 1)))
    return rows


def slope(phi: CharacteristicFunction, t_max: float, first: int, last: int) -> float | None:
    """Return the log-log slope of the relative error between two numbers of knots.

    The abscissa is the number of intervals, num_knots - 1, so that a second-order rule has -2. An error below ROUNDING
    counts as ROUNDING, which makes a slope flatter than it is; where the first one is there already, it has none.
    """
    inside = exact(phi, t_max)
    before, after = (max(abs(trapezoid(phi, t_max, knots) / inside - 1), ROUNDING) for knots in (first, last))
    return None if before == ROUNDING else math.log(after / before) / math.log((last - 1) / (first - 1))
