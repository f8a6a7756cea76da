"""Claims about pipeline.experiments.anisotropy, its report and stages/figure3.

1. Embeddings have exactly the covariance diag(2k, 2) / (1 + k), so total variance 2.
2. Linear probes equal numpy's; over many draws OLS and ridge have the bias and variance of their closed forms.
3. The logistic probe equals scikit-learn's.
4. Spread of known coefficients: bias, variance, and turns across the +-180 degree cut.
5. The stage writes table, page, charts and claims.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.core.csv_files import read_rows
from pipeline.core.seeds import generator
from pipeline.experiments import anisotropy
from pipeline.experiments.anisotropy import Row, Settings, fit_probes
from pipeline.reports.claims import read_claims
from stages import figure3
from tests.figure_params import small_params

SETTINGS = Settings(
    condition_numbers=[1, 16],
    num_samples=60,
    num_draws=40,
    num_seeds=3,
    coefficient_norm=1.0,
    label_std=1.0,
    ridge=5.0,
    logistic_ridge=1.0,
)


def embeddings(condition_number, num_samples=50):
    z = anisotropy.isotropic_embeddings(num_samples, generator(0, "test"))
    return anisotropy.stretch(z, condition_number)


@pytest.mark.parametrize("k", [1, 100])
def test_covariance(k):
    z = embeddings(k)
    covariance = z.T @ z / len(z)
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([2 * k, 2.0], dtype=z.dtype) / (1 + k)))
    assert covariance.trace().item() == pytest.approx(2, rel=1e-12)
    assert z.mean(0).abs().max() < 1e-12


def test_linear_probes_equal_numpy():
    z, labels = embeddings(9), torch.randn(3, 50, generator=generator(1, "labels"), dtype=torch.float64)
    fitted, shrunk = (anisotropy.linear_probe(z, labels, ridge) for ridge in (0.0, 7.0))
    padded = np.vstack([z.numpy(), math.sqrt(7) * np.eye(2)])
    for draw, ols, ridge in zip(labels.numpy(), fitted.numpy(), shrunk.numpy(), strict=True):
        np.testing.assert_allclose(ols, np.linalg.lstsq(z.numpy(), draw, rcond=None)[0], rtol=1e-10)
        padded_labels = np.concatenate([draw, np.zeros(2)])
        np.testing.assert_allclose(ridge, np.linalg.lstsq(padded, padded_labels, rcond=None)[0], rtol=1e-10)


@pytest.mark.parametrize(("probe", "ridge"), [("OLS", 0.0), ("ridge", 5.0)])
def test_many_draws_agree_with_the_closed_form(probe, ridge):
    settings = SETTINGS.model_copy(update={"num_draws": 20_000, "label_std": 0.7})
    fits = fit_probes(0, 16, settings)[probe]
    found = anisotropy.spread(fits.coefficients, fits.truth)
    bias, variance = anisotropy.linear_closed_form(fits.embeddings, fits.truth, 0.7, ridge)
    assert found.variance == pytest.approx(variance, rel=0.05)
    assert found.squared_bias == pytest.approx(bias, abs=5 * math.sqrt(max(bias, variance / 2e4) * variance / 2e4))
    assert (bias == 0) == (probe == "OLS")


def test_logistic_equals_scikit_learn():
    fits = fit_probes(0, 16, SETTINGS)["logistic"]
    labels = (
        torch.rand(5, 60, generator=generator(2, "classes")) < torch.sigmoid(fits.embeddings @ fits.truth)
    ).double()
    fitted = anisotropy.logistic_probe(fits.embeddings, labels, 0.5)
    for draw, coefficients in zip(labels.numpy(), fitted.numpy(), strict=True):
        reference = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000)
        reference.fit(fits.embeddings.numpy(), draw)
        np.testing.assert_allclose(coefficients, reference.coef_[0], rtol=1e-5)


def test_spread_of_known_coefficients():
    at = torch.tensor([170.0, -170.0], dtype=torch.float64).deg2rad()
    found = anisotropy.spread(torch.stack([at.cos(), at.sin()], dim=1), torch.tensor([-1.0, 0.0], dtype=torch.float64))
    variance = 2 * math.sin(math.radians(10)) ** 2
    assert found.direction_std_deg == pytest.approx(10)
    assert found.variance == pytest.approx(variance)
    assert found.squared_bias == pytest.approx((1 - math.cos(math.radians(10))) ** 2 - variance / 2)


@pytest.mark.seconds
def test_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure3.main(small_params(tmp_path, "figure3"))
    rows = read_rows(tmp_path / "reports/figure3.csv", Row._fields)
    assert len(rows) == 2 * 3 * 5
    found = read_claims(tmp_path / "reports/claims/figure3.csv")
    assert [claim.verdict for claim in found] == ["reproduced"] * 6 and {claim.seeds for claim in found} == {5}
    page = (tmp_path / "reports/figure3.md").read_text(encoding="utf-8")
    for name in ("figure3", "figure3-boundaries", "figure3-coefficients"):
        assert f"(plots/{name}.svg)" in page
        assert (tmp_path / f"reports/plots/{name}.svg").read_text(encoding="utf-8").startswith("<svg")
