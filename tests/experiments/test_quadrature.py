"""Claims about pipeline.experiments.quadrature, its report and stages/figure20.

1. The rule is the shipped one: given the empirical characteristic function, it is `epps_pulley` of the samples over N.
2. The reference equals closed forms for normal laws.
3. Every characteristic function belongs to its law: samples agree with it, and the unit laws have mean 0, variance 1.
4. The error in the end is the Euler-Maclaurin term at t_max: quadratic.
5. The verdict follows the slope.
6. The stage writes table, page, chart and claims.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.core.csv_files import read_rows
from pipeline.experiments import quadrature
from pipeline.experiments.quadrature import LAWS, Settings
from pipeline.experiments.quadrature_report import claims
from pipeline.losses.lejepa import epps_pulley
from pipeline.reports.claims import read_claims
from stages import figure20
from tests.figure_params import small_params

SAMPLERS = {
    "constant 0 (collapse)": lambda draws, n: np.zeros(n),
    "N(1, 1)": lambda draws, n: draws.normal(1, 1, n),
    "N(0, 4)": lambda draws, n: draws.normal(0, 2, n),
    "N(0, 1/4)": lambda draws, n: draws.normal(0, 0.5, n),
    "Laplace": lambda draws, n: draws.laplace(0, math.sqrt(0.5), n),
    "uniform": lambda draws, n: draws.uniform(-math.sqrt(3), math.sqrt(3), n),
    "two points ±1": lambda draws, n: draws.choice([-1.0, 1.0], n),
    "two normals ±0.9": lambda draws, n: draws.normal(0, math.sqrt(0.19), n) + 0.9 * draws.choice([-1, 1], n),
    "exponential − 1": lambda draws, n: draws.exponential(1, n) - 1,
}


@pytest.mark.parametrize("t_max", [3.0, 5.0])
@pytest.mark.parametrize("num_knots", [2, 9, 17])
def test_the_rule_is_the_shipped_one(t_max, num_knots):
    samples = torch.from_numpy(np.random.default_rng(1).exponential(1, 40))
    shipped = epps_pulley(samples[:, None], t_max=t_max, num_knots=num_knots).item() / len(samples)

    def empirical(t):
        return np.exp(1j * t[:, None] * samples.numpy()).mean(1)

    assert quadrature.trapezoid(empirical, t_max, num_knots) == pytest.approx(shipped, rel=1e-10)


@pytest.mark.parametrize(("law", "mean", "variance"), [("N(1, 1)", 1, 1), ("N(0, 4)", 0, 4), ("N(0, 1/4)", 0, 0.25)])
def test_reference_equals_closed_forms(law, mean, variance):
    cross = 2 * math.exp(-(mean**2) / (2 * (variance + 2))) / math.sqrt(variance + 2)
    want = math.sqrt(2 * math.pi) * (1 / math.sqrt(2 * variance + 1) - cross + 1 / math.sqrt(3))
    assert quadrature.exact(LAWS[law], quadrature.TAIL) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_every_characteristic_function_belongs_to_its_law(law):
    samples, t = SAMPLERS[law](np.random.default_rng(0), 40_000), np.linspace(-4, 4, 9)
    empirical = np.exp(1j * t[:, None] * samples).mean(1)
    assert np.abs(empirical - LAWS[law](t)).max() < 4 / math.sqrt(40_000)
    if law not in list(LAWS)[:4]:
        left, _, right = LAWS[law](np.array([-1e-3, 0, 1e-3]))
        assert abs(right - left) / 2e-3 < 1e-5  # i times the mean
        assert (2 - left - right).real / 1e-6 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_the_error_ends_as_the_term_of_euler_and_maclaurin(law):
    t_max, num_knots, step = 3.0, 129, 1e-5

    def integrand(t):
        return abs(LAWS[law](np.float64(t)) - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    steepness = (integrand(t_max + step) - integrand(t_max - step)) / (2 * step)
    want = (t_max / (num_knots - 1)) ** 2 / 6 * steepness
    got = quadrature.trapezoid(LAWS[law], t_max, num_knots) - quadrature.exact(LAWS[law], t_max)
    assert got == pytest.approx(want, rel=2e-2)
    assert quadrature.slope(LAWS[law], t_max, 65, 129) == pytest.approx(-2, abs=0.06)


def settings(t_max, slope_knots):
    return Settings(t_max=t_max, num_knots=[5, 17], slope_knots=slope_knots)


def test_verdict_follows_the_slope():
    assert quadrature.slope(LAWS["N(1, 1)"], 5.0, 17, 65) is None
    assert [claim.verdict for claim in claims(settings([8.0], [129, 257]))] == ["not run"]
    found = claims(settings([3.0, 8.0], [5, 17, 65]))
    assert [claim.verdict for claim in found] == ["differs", "differs", "reproduced", "reproduced"]
    assert float(found[1].ours) == pytest.approx(-1.97, abs=0.05) and "17 to 65 knots on [0, 3]" in found[1].claim


@pytest.mark.seconds
def test_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure20.main(small_params(tmp_path, "figure20"))
    rows = read_rows(tmp_path / "reports/figure20.csv", quadrature.Error._fields)
    assert len(rows) == 2 * len(LAWS) * 3
    found = read_claims(tmp_path / "reports/claims/figure20.csv")
    assert [claim.verdict for claim in found] == ["differs", "reproduced"]
    page = (tmp_path / "reports/figure20.md").read_text(encoding="utf-8")
    assert "| two points ±1 |" in page and "(plots/figure20.svg)" in page
    assert "t_max = 5" in (tmp_path / "reports/plots/figure20.svg").read_text(encoding="utf-8")
