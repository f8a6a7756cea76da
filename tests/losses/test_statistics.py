"""Claims of pipeline.losses.univariate:

1. Each statistic equals its definition: scipy's test, or the defining integral by quadrature, or a sum by hand.
2. Each has the right gradient (float64 gradcheck), finite even for collapsed samples, and handles leading axes.
3. `statistic_by_name` is not rounded under autocast, and lists the known names for an unknown one.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from pipeline.losses import univariate
from pipeline.losses.lejepa import epps_pulley, random_directions, sigreg
from pipeline.losses.univariate import MULTIVARIATE, STATISTICS, UNIVARIATE, statistic_by_name


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(num_samples=25, num_slices=3):
    return 1.3 * gaussian(num_samples, num_slices) + 0.4


def per_column(function, samples):
    return torch.tensor([function(column.numpy()) for column in samples.t()], dtype=torch.float64)


# 1. Definitions


def test_extended_jarque_bera_is_scipys_plus_two_terms():
    def reference(x):
        n, var = len(x), x.var(ddof=1)
        return n * x.mean() ** 2 / var + (n - 1) * (var - 1) ** 2 / 2 + scipy.stats.jarque_bera(x).statistic

    samples = columns()
    torch.testing.assert_close(univariate.extended_jarque_bera(samples), per_column(reference, samples))


def test_vcreg_by_hand():
    samples = torch.tensor([[1.0], [5.0]])
    assert univariate.vcreg(samples).item() == pytest.approx(3**2 + (2 - 1) ** 2)


def test_moments_by_hand():
    samples = torch.tensor([[1.0], [2.0]])
    gaps = [1.5, 2.5 - 1, 4.5, 8.5 - 3]
    assert univariate.moments(samples).item() == pytest.approx(sum(g * g * math.exp(-k) for k, g in enumerate(gaps)))
    sixth = univariate.moments(samples, max_order=6) - univariate.moments(samples, max_order=5)
    assert sixth.item() == pytest.approx((32.5 - 15) ** 2 * math.exp(-5))


def test_cramer_von_mises_is_scipys():
    samples = columns()
    want = per_column(lambda x: scipy.stats.cramervonmises(x, "norm").statistic, samples)
    torch.testing.assert_close(univariate.cramer_von_mises(samples), want)


def integral_over_steps(x, integrand):
    """Integrate integrand(F_N, u) over u in (0, 1), where F_N is the step function of u = F(x)."""
    edges = np.concatenate([[0], np.sort(scipy.stats.norm.cdf(x)), [1]])
    parts = [
        scipy.integrate.quad(lambda u, i=i: integrand(i / len(x), u), edges[i], edges[i + 1])[0]
        for i in range(len(x) + 1)
    ]
    return len(x) * sum(parts)


def test_anderson_darling_is_its_integral():
    samples = columns(9)
    want = per_column(lambda x: integral_over_steps(x, lambda f, u: (f - u) ** 2 / (u * (1 - u))), samples)
    torch.testing.assert_close(univariate.anderson_darling(samples), want, rtol=1e-6, atol=1e-6)


def test_watson_is_its_integral():
    def reference(x):
        shift = integral_over_steps(x, lambda f, u: f - u) / len(x)
        return integral_over_steps(x, lambda f, u: (f - u - shift) ** 2)

    samples = columns(9)
    torch.testing.assert_close(univariate.watson(samples), per_column(reference, samples), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_samples", [3, 4, 5, 6, 12, 50, 500])
def test_shapiro_wilk_is_scipys(num_samples):
    samples = columns(num_samples)
    want = per_column(lambda x: 1 - scipy.stats.shapiro(x).statistic, samples)
    torch.testing.assert_close(univariate.shapiro_wilk(samples), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_bhep_is_its_integral(beta):
    z = columns(7, 1)

    def gap(t):
        difference = np.exp(1j * t * z.numpy()).mean() - math.exp(-t * t / 2)
        return abs(difference) ** 2 * scipy.stats.norm.pdf(t, scale=beta)

    want = 7 * scipy.integrate.quad(gap, -12 * beta, 12 * beta)[0]
    assert univariate.bhep(z, beta=beta).item() == pytest.approx(want, rel=1e-8)


def test_bhep_in_one_dimension_is_epps_pulley_on_a_wide_grid():
    z = columns(20, 1)
    wide = epps_pulley(z, t_max=10.0, num_knots=400)
    assert math.sqrt(2 * math.pi) * univariate.bhep(z).item() == pytest.approx(wide.item(), rel=1e-8)


def test_henze_zirkler_is_bhep_with_its_bandwidth():
    z = columns(20, 3)
    want = univariate.bhep(z, beta=(7 * 20 / 4) ** (1 / 7) / math.sqrt(2))
    torch.testing.assert_close(univariate.henze_zirkler(z), want)


def expectation(function, gamma):
    """E of function(t) over two independent N(0, 1 / (2 gamma)), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(40)
    nodes = nodes / math.sqrt(gamma)
    total = sum(
        w1 * w2 * function(np.array([t1, t2]))
        for t1, w1 in zip(nodes, weights, strict=True)
        for t2, w2 in zip(nodes, weights, strict=True)
    )
    return total / math.pi


def test_henze_visagie_is_its_integral():
    z = columns(6, 2)

    def integrand(t):
        growth = np.exp(z.numpy() @ t)
        return ((growth @ z.numpy() / 6 - t * growth.mean()) ** 2).sum()

    want = 6 * expectation(integrand, gamma=5.0)
    assert univariate.henze_visagie(z).item() == pytest.approx(want, rel=1e-8)


def test_comb_is_its_integral():
    z = columns(6, 2)

    def integrand(t):
        return np.cos(z.numpy() @ t).mean() * np.exp(z.numpy() @ t).mean()

    want = 6 * (expectation(integrand, gamma=5.0) - 1) ** 2
    assert univariate.comb(z).item() == pytest.approx(want, rel=1e-8)


# 2. Gradients and shapes


@pytest.mark.parametrize("name", STATISTICS)
def test_gradients_are_right(name):
    assert torch.autograd.gradcheck(STATISTICS[name], (columns(6, 2).requires_grad_(),))


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collapsed_samples_have_finite_gradients(name, dtype):
    samples = torch.full((8, 3), 0.5, dtype=dtype, requires_grad=True)
    value = STATISTICS[name](samples).sum()
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite() and samples.grad.isfinite().all()


@pytest.mark.parametrize("name", STATISTICS)
def test_leading_axes_are_tested_one_by_one(name):
    z = gaussian(2, 3, 8, 4)
    got = STATISTICS[name](z)
    assert got.shape == ((2, 3, 4) if name in UNIVARIATE else (2, 3))
    torch.testing.assert_close(got[1, 2], STATISTICS[name](z[1, 2]))


# 3. By name


@pytest.mark.parametrize("name", STATISTICS)
def test_by_name_is_not_rounded_under_autocast(name):
    z, directions = gaussian(10, 4).float(), random_directions(4, 5)
    want = statistic_by_name(name)(z, directions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert statistic_by_name(name)(z, directions).item() == pytest.approx(want.item(), rel=1e-6)


def test_epps_pulley_by_name_keeps_its_grid():
    z, directions = gaussian(10, 4), random_directions(4, 5, dtype=torch.float64)
    got = statistic_by_name("epps_pulley", t_max=5.0, num_knots=9)(z, directions)
    torch.testing.assert_close(got, sigreg(z, directions, t_max=5.0, num_knots=9))


def test_names_are_disjoint_and_unknown_ones_are_answered():
    assert not UNIVARIATE.keys() & MULTIVARIATE.keys()
    with pytest.raises(
        ValueError, match=r"statistic 'watsen'; did you mean 'watson'.* known: anderson_darling, .*epps_pulley"
    ):
        statistic_by_name("watsen")
