"""Claims about what the scores of typicality say: they are read back as they were written; the areas are those of the
scores in the direction that was fixed; rank correlations have the sign of typicality; the stage writes table,
correlations, figures, sheets and report with equal bytes for equal scores, names what is missing, and attaches its
pictures to the run; the page has the same numbers."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from csv_tables import csv_rows
from PIL import Image
from sklearn.metrics import roc_auc_score
from typical_scores import path_of, settings, write_params, write_pick, write_scores, write_set

from pipeline.density.methods import METHODS, TABLE, Scores, read_scores, scores_text
from pipeline.density.separation import auroc_table, correlation_table, read_all
from pipeline.reports.page_sections import report_section
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.tracking import live_run
from stages import density

pytestmark = pytest.mark.seconds

REPORTS = Path("reports/density")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Encoder `home` finds images of its own set more typical than foreign ones; MLflow has no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live_run, "open_store", Mock(side_effect=OSError("no disk")))
    write_params()
    write_set("home")
    weights = Path("runs/default/home--test_vit--lambda0.05--seed0/pretrain/backbone.safetensors")
    write_text(weights, "")
    write_pick("home", weights, hashlib.sha256(b"").hexdigest())
    write_scores("home", "home", shift=1.0)
    write_scores("home", "abroad", seed=1)
    return tmp_path


def scores(**values) -> Scores:
    num = len(next(iter(values.values())))
    columns = {name: np.zeros(num) for name in (*METHODS, "pixel_mean")}
    filled = columns | {name: np.array(column, float) for name, column in values.items()}
    return Scores(np.arange(num), np.zeros(num, int), ["c"] * num, filled)


# Scores on disk


def test_scores_are_read_back(place):
    path = path_of("home", "home")
    found = read_scores(path)
    rows = [
        {"image": found.images[i], "label": found.labels[i], "class": found.classes[i]}
        | {name: float(column[i]) for name, column in found.values.items()}
        for i in range(40)
    ]
    assert scores_text(rows) == path.read_text(encoding="utf-8")
    float32 = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert all(np.float32(float(f"{value:.9g}")) == np.float32(value) for value in float32.tolist())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n0,0,", "\n0,x,", "is broken .*remove it and score again"),
        (r",[0-9.\-]+\n", ",nan\n", "must have rows of finite scores"),
    ],
)
def test_broken_scores_are_named(place, old, new, message):
    path = path_of("home", "home")
    path.write_text(re.sub(old, new, path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_scores(path)


# The table


def test_areas_are_those_of_the_scores_as_directed(place):
    found, missing = read_all(settings())
    table = auroc_table(found, {"home": "home"})
    assert [row["method"] for row in table] == list(METHODS) and not missing
    inside, outside = found["home", "home"].values, found["home", "abroad"].values
    for row in table:
        told = METHODS[row["method"]].sign * np.concatenate([inside[row["method"]], outside[row["method"]]])
        assert row["auroc"] == pytest.approx(roc_auc_score([1] * 40 + [0] * 40, told))
        assert row["low"] < row["auroc"] < row["high"] and (row["num_in"], row["num_out"]) == (40, 40)


def test_directions_are_those_of_the_literature():
    high = {name for name, method in METHODS.items() if method.sign == 1}
    assert high == {"jepa_score", "jepa_score_sketch", "random_init_jepa_score", "embedding_norm"}


# Correlations


def test_correlations_have_the_sign_of_typicality():
    values = np.arange(9.0)
    own = scores(jepa_score=values, jepa_score_sketch=values, knn_distance=values, pixel_mean=-values)
    other = scores(jepa_score=-values)
    found = {
        (row["trained"], row["other"]): row["spearman"]
        for row in correlation_table({("one", "set"): own, ("two", "set"): other})
    }
    assert found["one", "jepa_score_sketch"] == pytest.approx(1) and found["one", "knn_distance"] == pytest.approx(-1)
    assert found["one", "pixel_mean"] == pytest.approx(-1) and found["one", "mahalanobis"] is None
    assert found["one", "jepa_score of two"] == pytest.approx(-1)


# The stage and the page's section


def section(folder=REPORTS):
    return report_section(folder, "Density", "python -m stages.density", Path("reports")).body


def test_stage_writes_everything(place, capsys):
    density.main()
    names = {
        "table.csv",
        "correlations.csv",
        "report.md",
        "notes.txt",
        "auroc.svg",
        "histogram-home.svg",
        "sheet-home.png",
    }
    assert {path.name for path in REPORTS.iterdir()} == names
    before = {path.name: path.read_bytes() for path in REPORTS.iterdir()}
    assert tuple(csv_rows(REPORTS / "table.csv")[0]) == TABLE and len(csv_rows(REPORTS / "table.csv")) == len(METHODS)
    text = (REPORTS / "report.md").read_text(encoding="utf-8")
    assert "**home**: the run home--test_vit--lambda0.05--seed0, selected without labels" in text
    assert "with the score.](<sheet-home.png>)" in text and "## Missing" not in text and "72.9" in text
    area = float(csv_rows(REPORTS / "table.csv")[0]["auroc"])
    said = capsys.readouterr()
    assert f"{100 * area:.1f} (" in text and f"{100 * area:.1f} (" in said.out
    assert "warning: no artifacts in MLflow: OSError: no disk" in said.err
    (REPORTS / "old.png").touch()
    density.main()
    assert {path.name: path.read_bytes() for path in REPORTS.iterdir()} == before
    html = section()
    for row in csv_rows(REPORTS / "table.csv"):
        assert f"{100 * float(row['auroc']):.1f} (" in html
    assert html.count("<svg") == 2 and "72.9" in html and "<h2>" not in html
    with Image.open(REPORTS / "sheet-home.png") as picture:
        size = 'width="{}" height="{}" loading="lazy"'.format(*picture.size)
    assert '<img src="density/sheet-home.png" alt="home: The most and least typical test' in html and size in html


def test_table_and_sheet_become_artifacts_of_the_picked_run(place, monkeypatch, capsys):
    store = Mock(**{"attach.return_value": True})
    monkeypatch.setattr(live_run, "open_store", Mock(return_value=store))
    density.main()
    files = [REPORTS / "table.csv", REPORTS / "sheet-home.png"]
    store.attach.assert_called_once_with("default", "home--test_vit--lambda0.05--seed0", files, "density")
    assert capsys.readouterr().err == ""
    store.attach.return_value = False
    density.main()
    assert (
        "warning: no artifacts in MLflow: UserError: home--test_vit--lambda0.05--seed0 has no run"
        in capsys.readouterr().err
    )


def test_stage_names_what_is_missing(place, capsys):
    path_of("home", "abroad").unlink()
    density.main()
    assert "make it with: python -m stages.score home abroad" in capsys.readouterr().err
    text = (REPORTS / "report.md").read_text(encoding="utf-8")
    assert "No foreign set was scored" in text and "## Missing" in text
    path_of("home", "home").unlink()
    density.main()
    assert "no run has scored its own set and others" in capsys.readouterr().err
    assert "no run has scored its own set" in section()
