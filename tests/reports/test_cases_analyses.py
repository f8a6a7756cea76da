"""Cases of analyses (A1 to A4): tables and page come, whatever becomes of what is said beside them.

A user's set alone in the grid is trained once, tiny; the programs of dvc.yaml then run in its folder, in their order.

1. With the sets of the committed file as foreign ones there are table, page, scores and pictures.
2. An analysis that is not asked for, impossible or failed is one line of the page, with a remedy, and its stage
   succeeds.
3. Twelve training images, and no baselines, give a table.

A5, the budget of the exact JEPA-SCORE: tests/density/test_typicality.py, tests/planning/test_cases_plan.py.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import whole_grid
import yaml

from pipeline.density import scores
from pipeline.runtime.errors import UserError
from stages import check, configure, density, diagnose, foreign, page, pictures, score

pytestmark = pytest.mark.slow
MINE = "my-pictures"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder where README's pictures, alone in the grid, went from configure to page."""
    before, there = Path.cwd(), tmp_path_factory.mktemp("mine")
    os.chdir(there)
    entry = whole_grid.folder("my pictures", [12, 12, 12])
    whole_grid.shown(whole_grid.trained({"datasets": {MINE: entry}, "grid": {"datasets": [MINE]}}))
    os.chdir(before)
    return there


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """Return a copy of that folder, which is then the working directory."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")


def shown() -> str:
    page.main()
    return Path("reports/index.html").read_text(encoding="utf-8")


def change(**sections: object) -> None:
    """Replace sections of params.yaml; None leaves one out."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")) | sections
    params = {name: value for name, value in params.items() if value is not None}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    check.main()
    configure.main()


@pytest.mark.core
def test_a1_a_set_of_ones_own_alone_in_the_grid(here):
    """A1: density.sets does not name it; it is scored beside those that are named."""
    (row,) = whole_grid.rows()
    assert row["dataset"] == MINE and row["random_init_linear_top1"] and len(row["mlflow_run_id"]) == 32
    text = shown()
    assert f"{MINE} against digits" in text and f"Pictures: {MINE}" in text and row["mlflow_run_id"][:8] in text
    assert not any(words in text for words in ("cannot be made", "not asked for", "failed"))


@pytest.mark.parametrize("section", [{"sets": []}, None, {}], ids=["no sets", "left out", "empty"])
def test_a2_density_is_not_asked_for(here, section, capsys):
    """A2: said in one line, and nothing is scored."""
    change(density=section)
    foreign.main()
    for scored in (MINE, "foreign"):
        score.main(MINE, scored)
    density.main()
    assert "density: not asked for: density.sets names no data set" in capsys.readouterr().err
    assert "not asked for: density.sets names no data set" in shown()
    assert Path(f"reports/scores/{MINE}--{MINE}.csv").read_text(encoding="utf-8").startswith("# ")


def test_a2_every_section_that_has_defaults_is_left_out(here):
    """A2: density, pictures, diagnose, report, overrides and models."""
    change(density=None, pictures=None, diagnose=None, report=None, overrides=None, models=None)
    text = whole_grid.shown([MINE])
    assert f"Pictures: {MINE}" in text and "density.sets names no data set" in text


def test_a1_a_foreign_set_that_cannot_be_had(here):
    """A1: of two foreign sets one is not there; the other is compared, and the page names the first."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    sets = params["datasets"] | {"gone": {"source": "folder", "path": "gone"}}
    change(datasets=sets, density={"sets": ["gone", "digits"], "num_images": 10})
    foreign.main()
    score.main(MINE, "foreign")
    density.main()
    text = shown()
    assert f"{MINE} against digits" in text
    assert f"{MINE} on gone: cannot be made: the set is not there: " in text


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("a mistake")


FAILURES = {
    "diagnose": (diagnose, "read_runs", [diagnose.main]),
    f"score@{MINE}-{MINE}": (scores, "score_images", [partial(score.main, MINE, MINE), density.main]),
    f"score_foreign@{MINE}": (scores, "score_images", [partial(score.main, MINE, "foreign"), density.main]),
    "density": (density.separation, "auroc_table", [density.main]),
    f"pictures@{MINE}": (pictures, "exhibits", [partial(pictures.main, MINE)]),
}


@pytest.mark.parametrize("analysis", FAILURES)
def test_a1_an_analysis_that_fails(here, analysis, monkeypatch, capsys):
    """A1: traceback printed, stage succeeded, and the page has the reason and the remedy beside the tables."""
    module, function, programs = FAILURES[analysis]
    with monkeypatch.context() as patch:
        patch.setattr(module, function, broken)
        for program in programs:
            program()
    text, said = shown(), capsys.readouterr().err
    assert "failed: ZeroDivisionError: a mistake" in text and "Traceback" in said
    assert f"dvc repro --force --downstream {analysis}" in text and "1 of 1 cells have results" in text
    for program in programs:  # the remedy
        program()
    assert "a mistake" not in shown()


def test_a1_what_cannot_be_shown_is_named(here, capsys):
    """A1: files of analyses that are broken cost their own section; files that are gone too."""
    next(Path("reports/diagnosis/default").glob("*.svg")).unlink()
    next(Path("reports/density").glob("*.png")).write_bytes(b"no picture")
    next(Path("reports/pictures").glob("*/*-map.png")).unlink()
    Path("reports/paper.md").write_bytes(b"\xff")
    text = shown()
    assert "1 of 1 cells have results" in text
    for place in ("reports/diagnosis/default", "reports/density", "reports/pictures", "reports/paper.md"):
        assert f"{place} cannot be shown: " in text
    assert "remove it, then run: python -m stages.paper" in text, "no stage of DVC makes it"
    Path("reports/comparison.csv").unlink()
    with pytest.raises(UserError, match=r"no reports/comparison.csv; make it with: python -m stages.compare par"):
        page.main()


def test_a3_a4_twelve_training_images_without_baselines(tmp_path, monkeypatch, capsys):
    """A3, A4: a table without the columns of baselines; density.k is capped, as k-NN is, and that is said."""
    monkeypatch.chdir(tmp_path)
    few = {"datasets": {"few": whole_grid.arrays("few.npz", [8, 7])}, "grid": {"datasets": ["few"]}}
    few |= {"pretrain": {"batch_size": 4}, "probe": {"baselines": []}}
    text = whole_grid.shown(whole_grid.trained(few))
    (row,) = whole_grid.rows()
    assert row["linear_top1"] and not any(name.startswith(("random_init", "raw_pixels")) for name in row)
    assert "No baseline was measured" in text
    assert "few on few: k = 12, of all training images, in place of 20" in capsys.readouterr().err
    assert "few on few: k = 12, of all training images, in place of 20" in text
