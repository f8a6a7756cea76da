"""Claims about figures 13 and 14, beyond the pictures of the gallery (test_gallery.py):

1. A mask keeps the fewest positions that hold the share.
2. Centre AUROC is the Mann-Whitney statistic; the bootstrap interval is that of a mean, equal for an equal seed.
3. The stage runs on a backbone's file alone, and writes every report.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from csv_tables import csv_rows
from packed_pictures import pack_noise
from PIL import Image
from scipy.stats import mannwhitneyu

from pipeline.experiments.visuals import bootstrap_interval, centre_auroc, kept_mass
from pipeline.experiments.visuals_measure import MEASURES, NETWORKS
from pipeline.experiments.visuals_report import COLUMNS, claims
from pipeline.models.weights import save_weights
from pipeline.pictures.sheet import CELL_PX, GAP_PX
from pipeline.reports.claims import read_claims
from stages import figure13
from tests.small_networks import VIT, network, random

# 1. Masks


def test_mask_keeps_the_fewest_positions_that_hold_the_mass():
    attention = random(4, 3, 5, 5).softmax(-1)
    kept = kept_mass(attention, 0.6)
    held = (attention * kept).sum((-2, -1)) / attention.sum((-2, -1))
    weakest = attention.masked_fill(~kept, torch.inf).amin((-2, -1))
    assert (held >= 0.6 - 1e-6).all() and (held - weakest / attention.sum((-2, -1)) < 0.6).all()
    assert (weakest >= attention.masked_fill(kept, 0).amax((-2, -1))).all()
    assert not kept_mass(torch.zeros(2, 2), 0.5).any()


# 2. Measures


def test_centre_auroc_is_the_mann_whitney_statistic():
    scores = random(3, 8, 8).mul(4).round()  # with ties
    for one, found in zip(scores, centre_auroc(scores), strict=True):
        border = np.ones((8, 8), bool)
        border[2:6, 2:6] = False
        statistic = mannwhitneyu(one.numpy()[~border], one.numpy()[border]).statistic
        assert found == pytest.approx(statistic / (16 * 48))


def test_bootstrap_interval_is_that_of_a_mean():
    values = random(400)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def row(gain: float) -> dict:
    found = {f"{measure}_{network}": 0.5 for measure in MEASURES for network in NETWORKS}
    return {**found, "pca_trained": 0.5 + gain, "attention_random_init": 0.4}


def test_a_claim_holds_if_the_interval_is_above_zero():
    found = claims([row(0.1), row(0.2), row(0.3)], seed=0)
    assert [(c.ours, c.verdict) for c in found] == [("20.0", "reproduced"), ("0.0", "differs")]
    assert claims([row(-0.1), row(0.2), row(0.0)], seed=0)[0].verdict == "differs"


# 3. The stage

SETTINGS = {
    "weights": "weights/backbone.safetensors",
    "dataset": "set",
    "split": "test",
    "size_px": 32,
    "num_images": 5,
    "num_shown": 2,
    "seed": 0,
    "pca": "image",
    "foreground": False,
    "attention_mass": 0.6,
    "centre_frac": 0.5,
    "random_init_seeds": [0, 1],
    "batch_size": 2,
    "device": "cpu",
}


def run_stage(change: dict | None = None) -> None:
    path = Path("paper/look/params.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"visuals": {**SETTINGS, **(change or {})}}), encoding="utf-8")
    figure13.main(str(path))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack_noise(tmp_path / "data/set", 6, 20, 14)
    return tmp_path


def save(folder, name: str, arguments: dict, backbone=None) -> None:
    told = {"backbone": name, "kwargs": arguments, "img_size_px": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    save_weights(folder / SETTINGS["weights"], backbone or network(name, **arguments), told)


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "arguments", "size_px"), [("test_vit", VIT, 32), ("test_resnet", {}, 128)])
def test_stage_writes_every_report(place, name, arguments, size_px):
    save(place, name, arguments)
    run_stage({"size_px": size_px})
    rows = csv_rows(place / "reports/look.csv")
    assert tuple(rows[0]) == COLUMNS and len(rows) == 5 == len({entry["image"] for entry in rows})
    mean = {n: np.mean([float(entry[f"attention_{n}"]) for entry in rows]) for n in NETWORKS}
    assert mean["best_init"] > mean["random_init"]
    page = (place / "reports/look.md").read_text(encoding="utf-8")
    assert "![look](plots/look.png)" in page and "4 × 4 positions" in page and name in page
    whose = "the class token's" if name == "test_vit" else "the mean absolute activation"
    assert whose in page
    assert len(read_claims(place / "reports/claims/look.csv")) == 2
    picture = (place / "reports/plots/look.png").read_bytes()
    assert Image.open(io.BytesIO(picture)).size == (6 * (CELL_PX + GAP_PX) + GAP_PX, 2 * (CELL_PX + GAP_PX) + 36)
    run_stage({"size_px": size_px})
    assert (place / "reports/plots/look.png").read_bytes() == picture
