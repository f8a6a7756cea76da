"""Claims of pipeline.experiments.repair, its report and pipeline.experiments.descent (figures 6 and 16): the X has the
moments of N(shift, I) up to order 2; the measures have their closed forms; descent lowers the statistic, leaves its
start alone, and reports an overflow; verdicts follow from the numbers (stages: tests/graph/test_paper_pipelines.py)."""

from __future__ import annotations

import math
from itertools import repeat

import pytest
import torch

from pipeline.experiments import repair, repair_report
from pipeline.experiments.descent import descend
from pipeline.experiments.repair import Run, Settings
from pipeline.losses.lejepa import random_directions, sigreg


def settings(**changes):
    values = dict(statistics=["vcreg", "epps_pulley"], dims=[2], num_slices=[10], num_samples=100, shift=0.0)
    values |= dict(num_steps=300, lr=0.02, seeds=[0, 1], num_reference=200)
    return Settings(**values | changes)


def gaussian(num, seed=0):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))


def test_the_cloud_is_an_x():
    cloud = repair.x_cloud(20_000, 5, shift=1.0, seed=3)
    assert torch.allclose((cloud[:, 0] - 1).abs(), (cloud[:, 1] - 1).abs(), atol=1e-5)
    assert torch.allclose(cloud.mean(0), torch.tensor([1.0, 1, 0, 0, 0]), atol=0.03)
    assert torch.allclose(cloud.T.cov(), torch.eye(5), atol=0.04)


def test_x_left_of_known_shapes():
    x = repair.x_cloud(1000, 2, shift=0.0, seed=0)
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    assert repair.x_left(x) == pytest.approx(1, abs=0.02)
    assert repair.x_left(x @ turn) == pytest.approx(-1, abs=0.02)
    assert repair.x_left(gaussian(100_000)) == pytest.approx(0, abs=0.02)
    assert repair.x_left(3 * x + 7) == pytest.approx(repair.x_left(x), abs=1e-5)


def test_energy_distance():
    # One point in the centre: 2 E|G| - E|G - G'| = 2 sqrt(pi / 2) - sqrt(pi).
    centre = 2 * math.sqrt(math.pi / 2) - math.sqrt(math.pi)
    assert repair.energy_distance(torch.zeros(1, 2)) == pytest.approx(centre, rel=1e-9)
    points, normal = repair.x_cloud(50, 2, shift=1.0, seed=1).double(), gaussian(100_000).double()
    cross, within = torch.cdist(points, normal).mean(), torch.cdist(points, points).mean()
    assert repair.energy_distance(points) == pytest.approx(float(2 * cross - within) - math.sqrt(math.pi), abs=0.02)
    assert repair.energy_distance(gaussian(2000)) == pytest.approx(math.sqrt(math.pi) / 2000, abs=2e-3)


def test_descent_lowers_the_statistic_and_keeps_its_start():
    start = 2 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    before, directions = start.clone(), random_directions(4, 50, generator=torch.Generator().manual_seed(1))
    end = descend(start, sigreg, repeat(directions), num_steps=50, lr=0.05)
    assert torch.equal(start, before) and not end.requires_grad
    assert sigreg(end, directions) < 0.2 * sigreg(start, directions)


def test_overflow_is_reported():
    row = repair.measure(Run("henze_visagie", 1024, None, 0), settings(num_steps=2))
    assert row["finite"] is False and row["x_left"] is None and row["points"] is None


def row(statistic, dim, num_slices, seed, x_left, energy=0.01, finite=True):
    measures = {"x_left": x_left, "energy_distance": energy, "spread": 1.0, "start_correlation": 0.5} if finite else {}
    head = {"statistic": statistic, "dim": dim, "num_slices": num_slices, "seed": seed, "finite": finite}
    return {**head, **dict.fromkeys(repair.MEASURES), **measures, "points": None}


REFERENCE = {"x_left": {"mean": 0.0, "bound": 0.2}, "energy_distance": {"mean": 0.02, "bound": 0.04}}


def claims_of(*rows):
    return repair_report.claims(repair_report.summarise(rows, REFERENCE))


def test_verdicts():
    rows = [row("epps_pulley", 1024, 10, seed, value) for seed, value in enumerate([0.1, 0.0, 0.5])]
    rows += [row("vcreg", 1024, 10, seed, value) for seed, value in enumerate([0.9, 0.8, 0.1])]
    rows += [row("vcreg", 128, 10, seed, 0.0, energy=0.5) for seed in range(3)]
    rows += [row("epps_pulley", 128, 10, seed, 0.0, energy=0.5) for seed in range(3)]
    rows += [row("extended_jarque_bera", 128, 10, 0, None, finite=False)]
    found = {claim.claim: (claim.verdict, claim.ours, claim.seeds) for claim in claims_of(*rows)}
    x, energy = "share of the X left after descent on ", "energy distance to N(0, I) after descent on "
    assert len(found) == 16
    assert found[x + "Epps-Pulley, D 1024, S 10"] == ("reproduced", "0.200", 3)
    assert found[x + "VCReg, D 1024, S 10"] == ("reproduced", "0.600", 3)
    assert found[x + "VCReg, D 128, S 10"] == ("differs", "0.000", 3)
    assert found[x + "Epps-Pulley, D 128, S 10"][0] == "reproduced"
    assert found[energy + "Epps-Pulley, D 128, S 10"] == ("differs", "0.500", 3)
    assert found[x + "extended Jarque-Bera, D 128, S 10"] == ("not run", "", 0)
    assert found[x + "VCReg, D 1024, S 100"] == ("not run", "", 0)
