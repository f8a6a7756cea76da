"""Claims about the scores of images:

1. The stage scores random test images, and every column is what its definition says of
   that image: JEPA-SCORE of the trained and of the untrained network, distances to the training images of the
   encoder's own set, norm, pixels.
2. An encoder is the run that was picked for a data set, with the weights of its checksum, or a frozen model, whose
   in-domain set is the first of density.sets; what is unknown or another file is named with its remedy.
3. The number of images scored at once changes nothing but last bits, and neither does where images are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from csv_tables import csv_rows
from typical_scores import CLASSES, path_of, settings, write_params, write_pick, write_set

from pipeline.data.packed import PackedSplit
from pipeline.data.views.multicrop import evaluation_view
from pipeline.density import scores
from pipeline.density.encoders import encoder_names, find_encoder
from pipeline.density.jepa_score import jepa_score
from pipeline.density.methods import COLUMNS, read_scores
from pipeline.models.backbones import create_backbone, initial_backbone
from pipeline.models.weights import save_weights
from pipeline.runtime.absent import reason
from stages import score

pytestmark = pytest.mark.seconds

KWARGS = {"img_size": 16, "patch_size": 8}
MEAN, STD = [0.4] * 3, [0.3] * 3
WEIGHTS = Path("runs/default/home--test_vit--lambda0.05--seed0/pretrain/backbone.safetensors")


def save_network(path: Path, seed: int = 7) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = create_backbone("test_vit", KWARGS).eval()
    told = {"backbone": "test_vit", "kwargs": KWARGS, "img_size_px": 16, "mean": MEAN, "std": STD}
    save_weights(path, network, told)
    return network


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A picked run with its data sets in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_params()
    write_set("home", high=128)
    write_set("abroad", low=128)
    network = save_network(WEIGHTS)
    write_pick("home", WEIGHTS, hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(), seed=3)
    return network


def rows_of(scored: str, name: str = "home") -> list[dict[str, str]]:
    return csv_rows(path_of(name, scored))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def views_of(dataset: str, split: str, members=None, *, mean=MEAN, std=STD) -> torch.Tensor:
    images = PackedSplit({"home": "data/home"}.get(dataset, f"data/foreign/{dataset}"), split, load_px=256)
    chosen = range(len(images)) if members is None else members
    pixels = torch.stack([images[i][0] for i in chosen])
    return evaluation_view(pixels, 16, mean=mean, std=std)


# 1. Scores


@pytest.mark.parametrize("scored", ["home", "abroad"])
def test_every_column_is_what_it_says(network, scored):
    score.main("home", scored)
    rows = rows_of(scored)
    assert tuple(rows[0]) == COLUMNS and len(rows) == 12
    chosen = [int(row["image"]) for row in rows]
    assert chosen == sorted(set(chosen)) and chosen[-1] < 40
    assert [(row["label"], row["class"]) for row in rows] == [(str(i % 2), CLASSES[i % 2]) for i in chosen]

    seen, untrained = views_of(scored, "test", chosen), initial_backbone("test_vit", KWARGS, seed=3).eval()
    np.testing.assert_allclose(column(rows, "jepa_score"), jepa_score(network, seen), rtol=1e-5)
    np.testing.assert_allclose(column(rows, "random_init_jepa_score"), jepa_score(untrained, seen), rtol=1e-5)
    assert np.isfinite(column(rows, "jepa_score_sketch")).all()

    with torch.no_grad():
        known, found = (network(v).double() for v in (views_of("home", "train"), seen))
    np.testing.assert_allclose(column(rows, "embedding_norm"), found.norm(dim=1), rtol=1e-5)
    unit = [torch.nn.functional.normalize(v, dim=1) for v in (found, known)]
    np.testing.assert_allclose(column(rows, "knn_distance"), torch.cdist(*unit).sort(1).values[:, 2], rtol=1e-3)

    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    pixels = views_of(scored, "test", chosen, **plain).flatten(1).double()
    others = views_of("home", "train", **plain).flatten(1).double()
    np.testing.assert_allclose(column(rows, "pixel_mean"), pixels.mean(1), rtol=1e-6)
    gaps = (pixels.mean(1) - others.mean()).abs()
    np.testing.assert_allclose(column(rows, "pixel_mean_distance"), gaps, atol=1e-8)
    distances = torch.cdist(pixels, others).sort(1).values[:, 2]
    np.testing.assert_allclose(column(rows, "pixel_knn_distance"), distances, rtol=1e-6)


# 2. Encoders


def test_frozen_model_is_at_home_in_the_first_set(network):
    models = {name: {"backbone": "test_vit"} for name in ("idle", "mine")}
    write_params({"density": {"sets": ["abroad", "home"]}, "models": models})
    save_network(Path("models/mine/backbone.safetensors"))
    for scored in ("home", "abroad"):
        score.main("mine", scored)
    home, foreign = (column(rows_of(scored, "mine"), "pixel_mean_distance") for scored in ("home", "abroad"))
    assert foreign.max() < home.min()
    assert find_encoder("mine", settings()).home == "abroad"
    assert encoder_names(settings()) == ["home", "mine"]


def test_other_weights_than_the_picked_ones_are_refused(network):
    save_network(WEIGHTS, seed=8)
    score.main("home", "abroad")
    told = r"has sha256 [0-9a-f]{64} and not the picked .* python -m stages.diagnose"
    assert re.search(told, reason(path_of("home", "abroad")))
    WEIGHTS.unlink()
    score.main("home", "abroad")
    assert re.search(r"there are no picked weights runs/.*; run: dvc repro", reason(path_of("home", "abroad")))


def test_the_exact_score_has_a_budget(network, capsys):
    """A5: beyond density.max_tflop the sketch stands in, beyond that fewer images; both are told."""
    score.main("home", "home")
    exact = read_scores(path_of("home", "home"))
    image = views_of("home", "test")[:1]
    density = settings().density
    passes, forward = scores.num_passes(network, image)
    one = 4 * passes * forward / 1e12
    write_params({"density": {"max_tflop": 6 * one}})
    score.main("home", "home")
    found = read_scores(path_of("home", "home"))
    assert "stands in for the exact score, which would take" in capsys.readouterr().err and len(found.notes) == 1
    assert np.array_equal(found.values["jepa_score"], exact.values["jepa_score_sketch"])
    few = scores.affordable(passes, forward, 1000, density.model_copy(update={"max_tflop": one}))
    assert not few.exact and scores.FEWEST <= few.num_images < 1000 and "in place of 1000" in few.notes[1]


def test_a_picked_run_is_read_as_its_cell_was(network):
    path = Path("reports/diagnosis/default/picks/home.json")
    pick = json.loads(path.read_text())
    pick["shown"] |= {"batch_size": 7, "load_px": 96, "device": "cpu"}
    path.write_text(json.dumps(pick))
    reading = scores.Reading.of(settings(), find_encoder("home", settings()))
    assert (reading.batch_size, reading.load_px, reading.device.type) == (7, 96, "cpu")
    assert settings().shown.batch_size != 7


# 3. Reading


def test_sizes_of_batches_are_no_part_of_a_score(network):
    encoder, density = find_encoder("home", settings()), settings().density
    folders = Path("data/home"), Path("data/foreign/abroad")
    reading = scores.Reading(load_px=256, memory_gb=1, num_workers=0, batch_size=256, device=torch.device("cpu"))
    expected = scores.score_images(encoder, *folders, density, reading)[0]
    small = scores.Reading(load_px=256, memory_gb=0, num_workers=0, batch_size=7, device=torch.device("cpu"))
    found = scores.score_images(encoder, *folders, density, small)[0]
    for name in set(COLUMNS) - {"class"}:
        values = [[row[name] for row in rows] for rows in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=name)
