"""Cases of settings (A2, A6 to A10, D2), each through `python -m stages.check` or `configure`, the first a user meets.

1. What DVC cannot parse is said in our words, all at once, with what to write instead, in about a second without torch.
2. Sections with defaults may be left out, empty or null; configure then writes the same settings.
3. Relations between settings are refused before anything is trained; what is meant to work is not.
4. Grids of thousands of cells are checked in seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from bad_settings import nested

from pipeline.catalogue.validation import ParamsError
from pipeline.settings.cells import merge
from stages import check, configure

pytestmark = pytest.mark.seconds

ROOT = Path(__file__).parents[2]
OPTIONAL = ("density", "pictures", "diagnose", "report", "overrides", "models", "probe")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def committed() -> dict:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["grid"] |= {"datasets": ["digits"], "backbones": ["test_byobnet"]}
    return params


def write(params: dict) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def refused(change: dict, base: dict | None = None) -> list[str]:
    write(merge(base or committed(), change))
    with pytest.raises(ParamsError) as caught:
        check.main()
    return caught.value.problems


def replaced(path: str, value: object) -> list[str]:
    """Return what is said of the committed file with another value in one place, which may be none."""
    params = committed()
    *sections, key = path.split(".")
    place = params
    for section in sections:
        place = place[section]
    place[key] = value
    write(params)
    with pytest.raises(ParamsError) as caught:
        check.main()
    return caught.value.problems


# 1. What DVC cannot parse

SHAPES = {
    "D2: a number for a list": ("grid.seeds", 0, "grid.seeds must be a list, got 0; write seeds: [0]"),
    "D2: a word for a list": (
        "density.sets",
        "digits",
        "density.sets must be a list, got 'digits'; write sets: [digits]",
    ),
    "D2: an emptied list": (
        "grid.backbones",
        None,
        "grid.backbones must be a list, got nothing; write backbones: [...]",
    ),
    "D2: no grid": ("grid", None, "grid is required; add it"),
    "D2: a word for a section": ("probe", "linear", "probe must be a section, keys with values under it, got 'linear'"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_that_dvc_cannot_read(case):
    path, value, words = SHAPES[case]
    (problem,) = replaced(path, value)
    assert problem.startswith(words)


def test_a9_everything_is_said_at_once_without_torch():
    """A9: every section is looked at, whatever is cached; all that is wrong comes at once, in about a second."""
    params = committed() | {"densty": {"k": 3}, "pictures": {"num_image": 3}}
    params["grid"]["seeds"] = 0
    write(params)
    program = "import sys; from stages import check, run\ntry: run(check.main)\nfinally: print('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert time.monotonic() - began < 20  # a second on a quiet machine
    for words in ("unknown key densty; did you mean 'density'?", "pictures.num_image", "write seeds: [0]"):
        assert words in done.stderr


def test_files_that_are_not_there_are_named_before_anything_runs(capsys):
    """A9: the paths of all sets of the grid."""
    sets = {
        "a": {"source": "folder", "path": "nowhere"},
        "b": {"source": "arrays", "path": "no.npz"},
        "c": {"source": "bundled"},
        "d": {"source": "huggingface", "path": "{split}-*.parquet"},
    }
    told = refused({"datasets": sets, "grid": {"datasets": list(sets)}})
    assert [line.split(":")[0] for line in told] == [
        "datasets.a.path",
        "datasets.b.path",
        "datasets.c",
        "datasets.d.path",
    ]
    with pytest.raises(ParamsError) as caught:
        configure.main()
    assert caught.value.problems == told


# 2. Sections with defaults


@pytest.mark.parametrize("kind", ["left out", "null", "empty"])
def test_a2_sections_with_defaults(kind):
    """A2: left out, null or empty, one after the other and all together: the same settings."""
    empty = {name: [] if name == "overrides" else {} for name in OPTIONAL}
    for names in (*((name,) for name in OPTIONAL), OPTIONAL):
        params = {name: value for name, value in committed().items() if name not in names}
        if kind != "left out":
            params |= {name: None if kind == "null" else empty[name] for name in names}
        write(params)
        check.main()
    configure.main()
    folder = Path("runs/default/configs")
    told = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("score", "pictures", "diagnose", "report")
    }
    assert told["score"]["density"]["sets"] == [] and told["score"]["density"]["k"] == 20
    assert told["report"]["mlflow_url"] == "http://127.0.0.1:5000"
    assert told["pictures"]["pictures"]["num_images"] == 8 and told["diagnose"]["exponent"] == 0.4
    assert [path.name for path in (folder / "sets").iterdir()] == ["digits.json"]


# 3. Relations

RELATIONS = {
    "A7: published weights": (
        nested("grid.backbones", ["vit_tiny_patch16_224.augreg_in21k"]),
        "grid.backbones.0 must be an architecture, got 'vit_tiny_patch16_224.augreg_in21k', which names published "
        "weights; pretraining starts from random ones: write vit_tiny_patch16_224",
    ),
    "A7: a tag that there is not": (
        nested("grid.backbones", ["test_vit.mine"]),
        "grid.backbones.0 must be an architecture, got 'test_vit.mine'",
    ),
    "A8: scores": (
        {
            "datasets": {name: {"source": "sklearn"} for name in ("set", "set-my", "my-set")},
            "grid": {"datasets": ["set", "set-my", "my-set"]},
        },
        "grid: set with my-set and set-my with set would be one stage of DVC, score@set-my-set; rename a data set",
    ),
    "A8: names but for case": (
        {"datasets": {"Digits": {"source": "sklearn"}}, "grid": {"datasets": ["digits", "Digits"]}},
        "grid.datasets and density.sets must differ in more than upper and lower case, got digits and Digits",
    ),
    "an override of a set that there is not": (
        {"overrides": [{"when": {"dataset": "digit"}, "pretrain": {"epochs": 3}}]},
        "unknown data set 'digit' in overrides.0.when.dataset; did you mean 'digits'?",
    ),
}


@pytest.mark.parametrize("case", RELATIONS)
def test_relations_are_refused_before_training(case):
    change, words = RELATIONS[case]
    problem, *further = refused(change)
    assert problem.startswith(words) and further == []


def test_what_is_meant_is_not_refused():
    """A6, A8: views larger than load_px, as photographs are not resized to it; names that join to different ones."""
    sets = {name: {"source": "sklearn"} for name in ("my", "my-set", "set-b", "b")}
    change = {
        "datasets": sets,
        "grid": {"datasets": list(sets)},
        "pretrain": {"load_px": 32, "views": {"global_px": 64, "num_local": 2, "local_px": 48}},
    }
    change["overrides"] = [{"when": {"dataset": "nothing-*"}, "pretrain": {"epochs": 3}}]
    with pytest.raises(ParamsError, match="my with set-b and my-set with b would be one stage of DVC, score@my-set-b"):
        write(merge(committed(), change))
        check.main()
    change["grid"] = {"datasets": ["my", "my-set", "digits"]}
    write(merge(committed(), change))
    check.main()


# 4. Many cells


@pytest.mark.parametrize("num_seeds", [250, 3000])
def test_a10_a_grid_of_thousands_of_cells_is_checked_in_seconds(num_seeds, capsys):
    """A10: 1,000 and 12,000 cells."""
    grid = {"lambdas": [0.01, 0.02, 0.05, 0.1], "seeds": list(range(num_seeds)), "max_cells": 12_000}
    write(merge(committed(), {"grid": grid}))
    began = time.process_time()
    check.main()
    assert time.process_time() - began < 5  # under one second on a quiet machine
    assert f"{4 * num_seeds} cells of grid 'default' are valid" in capsys.readouterr().out
