"""Claims about pipeline.experiments.known_density, its mixtures, report and stages/known_density.

1. The mixtures' log_density is scipy's.
2. Distribution functions spread samples evenly: uniform on the sphere, standard normal in every dimension, also in the
   tails, where a plain 1 - F would round to 0.
3. The determinant of a map is p / q exactly: log p = score + log q(f), in the plane, side by side and in 16 dimensions.
4. On the sphere the score ranks as log p does, Spearman 1; a map to N(0, I) does not in the plane, and does better with
   the dimension where modes differ in scale; the share of log q falls there and stays with planes.
5. Measuring is a function of its settings; the stage writes table, page and charts, with the numbers of the rows.
"""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from scipy.stats import kstest, multivariate_normal

from pipeline.core.csv_files import read_rows
from pipeline.core.seeds import generator
from pipeline.density.jepa_score import jepa_score
from pipeline.experiments import known_density
from pipeline.experiments.known_density import (
    PLANES,
    SCALES,
    SPHERE,
    Settings,
    draw,
    log_gaussian,
    log_sphere,
    measure,
)
from pipeline.experiments.mixtures import ToGaussian, ToSphere, log_density, plane_mixture, sample, scale_mixture
from stages import known_density as stage

FEW = Settings(
    num_points=60, dims=[2, 4], num_scales=3, num_seeds=2, learned_dim=4, embed_dims=[2, 3], hidden_dim=8, num_steps=3,
    batch_size=16, num_slices=4, num_known=50, k=3,
)  # fmt: skip


def test_log_density_is_scipys():
    mixture, points = plane_mixture(), draw(plane_mixture(), 20, 1, 0)[0]
    densities = sum(
        weight * multivariate_normal(centre, factor @ factor.T).pdf(points.numpy())
        for weight, centre, factor in zip(*(part.numpy() for part in mixture), strict=True)
    )
    torch.testing.assert_close(log_density(mixture, points).exp(), torch.from_numpy(densities))


def test_the_sphere_is_covered_evenly():
    embeddings = ToSphere(plane_mixture())(sample(plane_mixture(), 4000, generator(0, "test")))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    for axis in range(3):  # Archimedes: every coordinate is uniform on [-1, 1]
        assert kstest(embeddings[:, axis].numpy(), "uniform", (-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("mixture", [plane_mixture(), scale_mixture(5, 3)], ids=["plane", "scales"])
def test_the_gaussian_is_standard(mixture):
    embeddings = ToGaussian(mixture)(sample(mixture, 4000, generator(0, "test")))
    assert min(kstest(column.numpy(), "norm").pvalue for column in embeddings.T) > 1e-3
    torch.testing.assert_close(embeddings.T.cov(), torch.eye(len(embeddings.T), dtype=torch.float64), atol=0.1, rtol=0)


def test_tails_are_exact():
    mixture = scale_mixture(2, 1)._replace(factors=torch.eye(2, dtype=torch.float64)[None])
    far = torch.tensor([[12.0, -30.0], [-9.0, 25.0]], dtype=torch.float64)
    torch.testing.assert_close(ToGaussian(mixture)(far), far)


CASES = {
    "sphere": (plane_mixture(), ToSphere, log_sphere, 1),
    "plane": (plane_mixture(), ToGaussian, log_gaussian, 1),
    "side by side": (plane_mixture(), ToGaussian, log_gaussian, 3),
    "16 dimensions": (scale_mixture(16, 4), ToGaussian, log_gaussian, 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_change_of_variables(case, mode):
    mixture, kind, log_target, copies = CASES[case]
    points, log_p = draw(mixture, 50, copies, 3)
    encoder = kind(mixture).eval()
    identity = jepa_score(encoder, points, mode=mode) + log_target(encoder(points))
    torch.testing.assert_close(identity, log_p, rtol=0, atol=1e-9)


def correlations(rows, case):
    return {dim: mean(row.spearman for row in rows if (row.case, row.dim) == (case, dim)) for dim in (2, 32)}


@pytest.mark.seconds
def test_the_score_ranks_as_the_density_where_the_embedding_is_even():
    settings = FEW.model_copy(update={"num_points": 300, "dims": [2, 32], "num_scales": 8, "num_steps": 0})
    rows = measure(settings).rows
    on_sphere = [row for row in rows if row.case == SPHERE]
    assert all(row.spearman > 0.9999 and row.q_share < 1e-9 for row in on_sphere)
    assert all(row.identity_error < 1e-9 for row in rows if row.identity_error is not None)
    planes, scales = correlations(rows, PLANES), correlations(rows, SCALES)
    assert max(planes.values()) < 0.9
    assert 0.95 < scales[2] < scales[32]
    share = {(row.case, row.dim): row.q_share for row in rows if row.seed == 0}
    assert share[SCALES, 32] < share[SCALES, 2] / 2.5
    assert share[PLANES, 32] == pytest.approx(share[PLANES, 2], rel=0.25)


@pytest.mark.seconds
def test_measuring_repeats_and_the_stage_writes_what_it_measured(monkeypatch, tmp_path):
    measured = measure(FEW)
    assert measured.rows == measure(FEW).rows
    monkeypatch.setattr(stage, "Settings", lambda: FEW)
    monkeypatch.setattr(stage, "measure", lambda settings: measured)
    stage.main(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "report.md", "scatter.svg", "dimensions.svg"}
    written = read_rows(tmp_path / "table.csv", known_density.Row._fields)
    assert [float(row["spearman"]) for row in written] == pytest.approx(
        [row.spearman for row in measured.rows], abs=1e-6
    )
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    sphere = [row.spearman for row in measured.rows if row.case == SPHERE]
    assert f"Spearman {mean(sphere):.3f}" in page and "above 0.9 for every seed" in page
    assert "NOT above" not in page
