"""Claims about pipeline.trials and stages/trials.

1. A killed stage goes on where it was: no finished training is repeated, and the rows are the same to the last bit.
2. The pick of the tuning is trained with every seed; equal wall time divides the epochs by the relative time of a step.
3. The best of the tuning is taken, of equal ones the first; a diverged training never; all diverged is an error.
4. A subset has equally many images of each class.
5. Settings that do not fit are named before any work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from csv_tables import csv_rows
from sklearn.datasets import load_digits

from pipeline.catalogue.validation import read_section
from pipeline.runtime.errors import NonFiniteLossError, UserError
from pipeline.schema.trials import Trials
from pipeline.settings.cells import merge
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from pipeline.trials import tuning
from pipeline.trials.bench import balanced
from stages import trials
from tests.figure_params import small_settings

pytestmark = pytest.mark.seconds
TIMES = ("train_s", "images_per_s", "peak_memory_mib")


def section(**changes) -> dict:
    whole = yaml.safe_load((Path(__file__).parents[2] / "paper/objectives_laptop/params.yaml").read_text())["trials"]
    small = {"seeds": [0], "num_train": 40, "weights": {"simclr": {"temperature": [0.2]}}}
    small["pretrain"] = {"epochs": 2, "batch_size": 16, "views": {"global_px": 16}, "device": "cpu"}
    small["probe"] = {"few_shot": {"shots": [2]}}
    return merge(merge(merge(whole, small_settings("objectives_laptop")[1]), small), changes)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    bunch = load_digits()
    images, labels = (bunch.images[:200] * 15.9).astype(np.uint8), bunch.target[:200].tolist()
    pictures = [Picture(image, label, str(i)) for i, (image, label) in enumerate(zip(images, labels, strict=True))]
    splits = {"train": pictures[:120], "test": pictures[120:]}
    pack(tmp_path / "data/digits", "digits", {"source": "sklearn"}, list("0123456789"), splits)
    return tmp_path


def write(folder: Path, **changes) -> str:
    (folder / "params.yaml").write_text(yaml.safe_dump({"trials": section(**changes)}))
    return str(folder / "params.yaml")


def timeless(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def test_a_killed_stage_goes_on_where_it_was(place, monkeypatch):
    params, honest, calls = write(place), tuning.trained, []

    def killed(bench, trial, *rest):
        calls.append(trial)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(bench, trial, *rest)

    monkeypatch.setattr(tuning, "trained", killed)
    monkeypatch.setattr(tuning, "relative_time", lambda *_: 2.0)
    with pytest.raises(KeyboardInterrupt):
        trials.main(params, "digits", "simclr", "out")
    trials.main(params, "digits", "simclr", "out")
    found, tried = csv_rows(place / "out/rows.csv"), csv_rows(place / "out/tuning.csv")
    # The tuning's one training, the interrupted one again, and half as many epochs of it
    assert [(trial.seed, trial.epochs) for trial in calls] == [(100, 1), (0, 2), (0, 2), (0, 1)]
    assert [(row["budget"], row["epochs"], row["images_seen"]) for row in found] == [
        ("images", "2", "64"),
        ("time", "1", "32"),
    ]
    assert {row["holdout_top1"] for row in found} == {tried[0]["holdout_top1"]}
    monkeypatch.setattr(tuning, "trained", honest)
    (place / ".scratch").rename(place / "elsewhere")
    trials.main(params, "digits", "simclr", "again")
    assert timeless(csv_rows(place / "again/rows.csv")) == timeless(found)
    assert timeless(csv_rows(place / "again/tuning.csv")) == timeless(tried)


def test_baselines(place):
    trials.main(write(place), "digits", "baselines", "out")
    found = csv_rows(place / "out/rows.csv")
    assert [(row["objective"], row["seed"]) for row in found] == [("random_init", "0"), ("raw_pixels", "0")]
    assert all(0 <= float(row["linear_top1"]) <= 1 for row in found)


def test_the_pick():
    tried = [{"objective": "simclr", "lr": i, "holdout_top1": top1} for i, top1 in enumerate([None, 0.5, 0.7, 0.7])]
    assert tuning.pick(tried)["lr"] == 2
    with pytest.raises(NonFiniteLossError, match="every training of simclr"):
        tuning.pick(tried[:1])
    assert [tuning.at_edge(value, [1.0, 2.0, 3.0]) for value in (1.0, 2.0, 3.0)] == [True, False, True]


def test_a_subset_has_equally_many_images_of_each_class():
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 7)
    chosen = balanced(labels, 14)
    assert labels[chosen].bincount().tolist() == [4, 4, 4] and len(chosen.unique()) == 12
    with pytest.raises(UserError, match="num_train must be 3 to 15, got 18"):
        balanced(labels, 18)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"objectives": ["lejepa", "vicregg"]}, "weights must name what is tuned of every objective; add vicregg"),
        ({"weights": {"simclr": {"temperature": [1], "lambda": [1]}}}, "weights must name one setting"),
        ({"reference": "byol"}, "reference must be one of objectives, got byol"),
        (
            {"views": {"digits": {"num_globul": 1}}},
            "of digits with 1 epochs: unknown key views.num_globul; did you mean",
        ),
        ({"weights": {"lejepa": {"lambda": [1.5]}}}, "weights.lejepa.lambda must be in [0, 1)"),
        ({"pretrain": {"objectives": {"simclr": {"temprature": 0.2}}}}, "pretrain.objectives.simclr.temprature"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **change)
    with pytest.raises(UserError) as error:
        trials.check(path, read_section(path, "trials", Trials))
    assert told in str(error.value)
