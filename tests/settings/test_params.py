"""Claims about params.yaml:

1. The committed file is valid; the defaults of `pretrain.views` are those of the views themselves.
2. Every broken rule is refused, in a line that has the path, the rule and the value; unknown names come with the
   nearest match; all problems of a file are reported at once.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from params_file import BASE, problems, written

from pipeline.data.views.multicrop import Multicrop
from pipeline.runtime.errors import did_you_mean
from pipeline.schema.pretrain import Views
from pipeline.settings.cells import grid_cells
from pipeline.settings.params import load_params

ROOT = Path(__file__).parents[2]


def nested(path: str, value: object) -> dict:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


# 1. The committed file and the defaults


def test_committed_params_are_valid():
    params = load_params(ROOT / "params.yaml")
    axes = params.grid
    cells = grid_cells(params, "default")
    assert len({cell.key for cell in cells}) == len(cells)
    assert len(cells) == len(axes.datasets) * len(axes.backbones) * len(axes.lambdas) * len(axes.seeds)


def test_views_have_the_defaults_of_multicrop():
    defaults = {field.name: field.default for field in fields(Multicrop)}
    assert Multicrop(**Views().model_dump()) == Multicrop()
    assert set(Views.model_fields) == set(defaults)


# 2. One line for every broken rule

UNKNOWN_KEYS = {
    "grids": "unknown key grids; did you mean 'grid'?",
    "grid.lambda": "unknown key grid.lambda; did you mean 'lambdas'?",
    "datasets.digits.dataste": "unknown key datasets.digits.dataste; did you mean 'dataset'?",
    "pretrain.epoch": "unknown key pretrain.epoch; did you mean 'epochs'?",
    "pretrain.views.globl_px": "unknown key pretrain.views.globl_px; did you mean 'global_px'?",
    "pretrain.backbone.patch": "unknown key pretrain.backbone.patch; did you mean 'patch_size'?",
    "pretrain.projector.proj_dims": "unknown key pretrain.projector.proj_dims; did you mean 'proj_dim'?",
    "pretrain.sigreg.num_slice": "unknown key pretrain.sigreg.num_slice; did you mean 'num_slices'?",
    "pretrain.optimizer.weight_dacay": "unknown key pretrain.optimizer.weight_dacay; did you mean 'weight_decay'?",
    "pretrain.schedule.warmup": "unknown key pretrain.schedule.warmup; did you mean 'warmup_epochs'?",
    "pretrain.loader.workers": "unknown key pretrain.loader.workers; did you mean 'num_workers'?",
    "probe.linears": "unknown key probe.linears; did you mean 'linear'?",
    "probe.linear.lr": "unknown key probe.linear.lr; known: batch_size, epochs, learning_rates, weight_decay",
    "probe.knn.temprature": "unknown key probe.knn.temprature; did you mean 'temperature'?",
    "probe.few_shot.shot": "unknown key probe.few_shot.shot; did you mean 'shots'?",
    "report.decimal": "unknown key report.decimal; did you mean 'decimals'?",
}


@pytest.mark.parametrize("path", UNKNOWN_KEYS)
def test_unknown_key_comes_with_the_nearest_match(tmp_path, path):
    (problem,) = problems(written(tmp_path / "params.yaml", nested(path, 1)))
    assert problem.startswith(UNKNOWN_KEYS[path])


OUT_OF_RANGE = {
    "grid.datasets": ([], "grid.datasets must have at least 1 item"),
    "grid.backbones": ([], "grid.backbones must have at least one name"),
    "grid.lambdas": ([0.1, 1.5], "grid.lambdas.1 must be less than or equal to 1, got 1.5"),
    "grid.seeds": ([-1], "grid.seeds.0 must be greater than or equal to 0, got -1"),
    "pretrain.epochs": (0, "greater than or equal to 1, got 0"),
    "pretrain.batch_size": (1, "greater than or equal to 2, got 1"),
    "pretrain.load_px": (5000, "less than or equal to 4096, got 5000"),
    "pretrain.precision": ("float16", "pretrain.precision must be 'auto', 'float32' or 'bfloat16', got 'float16'"),
    "pretrain.device": ("gpu", "pretrain.device must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
    "pretrain.views.num_global": (0, "pretrain.views.num_global must be greater than or equal to 1, got 0"),
    "pretrain.views.num_local": (-1, "greater than or equal to 0, got -1"),
    "pretrain.views.local_px": (4, "greater than or equal to 8, got 4"),
    "pretrain.views.global_scale": ([0.3, 1.5], "must not exceed the whole image (1.0), got [0.3, 1.5]"),
    "pretrain.views.local_scale": ([0.3, 0.1], "[low, high] with 0 < low <= high, got [0.3, 0.1]"),
    "pretrain.views.ratio": ([0, 1], "[low, high] with 0 < low <= high"),
    "pretrain.views.blur_sigma": ([1.0], "pretrain.views.blur_sigma must have at least 2 items"),
    "pretrain.views.flip_prob": (1.1, "less than or equal to 1, got 1.1"),
    "pretrain.views.hue": (0.6, "less than or equal to 0.5, got 0.6"),
    "pretrain.views.std": ([0.2, 0.2, 0], "must be > 0 in each channel, got [0.2, 0.2, 0"),
    "pretrain.views.mean": ([0.5, 0.5], "pretrain.views.mean must have at least 3 items"),
    "pretrain.backbone.patch_size": (0, "greater than or equal to 1, got 0"),
    "pretrain.backbone.drop_path_rate": (2, "less than or equal to 1, got 2"),
    "pretrain.projector.hidden_dims": ([256, 0], "pretrain.projector.hidden_dims.1 must be greater than or equal to 1"),
    "pretrain.projector.proj_dim": (1, "greater than or equal to 2, got 1"),
    "pretrain.sigreg.t_max": (0, "pretrain.sigreg.t_max must be greater than 0, got 0"),
    "pretrain.sigreg.num_knots": (1, "greater than or equal to 2, got 1"),
    "pretrain.optimizer.lr": (0, "pretrain.optimizer.lr must be greater than 0, got 0"),
    "pretrain.optimizer.betas": ([0.9, 1], "pretrain.optimizer.betas.1 must be less than 1, got 1"),
    "pretrain.schedule.warmup_epochs": (20, "pretrain.schedule.warmup_epochs must be < epochs, got 20 of 20"),
    "pretrain.schedule.final_lr_frac": (-1, "greater than or equal to 0, got -1"),
    "pretrain.loader.num_workers": (-1, "greater than or equal to 0, got -1"),
    "probe.holdout_frac": (1, "probe.holdout_frac must be less than 1, got 1"),
    "probe.linear.learning_rates": ([], "probe.linear.learning_rates must have at least 1 item"),
    "probe.knn.k": (0, "greater than or equal to 1, got 0"),
    "probe.few_shot.shots": ([0], "probe.few_shot.shots.0 must be greater than or equal to 1, got 0"),
    "probe.few_shot.ridge": (0, "probe.few_shot.ridge must be greater than 0, got 0"),
    "report.decimals": (5, "less than or equal to 4, got 5"),
}


@pytest.mark.parametrize("path", OUT_OF_RANGE)
def test_value_out_of_range(tmp_path, path):
    value, message = OUT_OF_RANGE[path]
    (problem,) = problems(written(tmp_path / "params.yaml", nested(path, value)))
    assert path in problem and message in problem


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("grid", 3, "grid must be a section, keys with values under it, got 3; write one key a line"),
        ("grid.datasets", "digits", "grid.datasets must be a list, got 'digits'; write datasets: [digits]"),
        ("grid.datasets", [10], "grid.datasets.0 must be a valid string, got 10"),
        ("grid.lambdas", ["0.1"], "grid.lambdas.0 must be a valid number, got '0.1'; write it without quotes"),
        ("grid.lambdas", [True], "grid.lambdas.0 must be a valid number, got True"),
        ("grid.lambdas", [float("nan")], "grid.lambdas.0 must be a finite number"),
        ("grid.seeds", [0.0], "grid.seeds.0 must be a valid integer, got 0.0"),
        ("grid.seeds", [True], "grid.seeds.0 must be a valid integer, got True"),
        ("pretrain.epochs", "5", "pretrain.epochs must be a valid integer, got '5'; write it without quotes"),
        ("pretrain.epochs", 2.5, "pretrain.epochs must be a valid integer"),
        ("pretrain.optimizer.lr", True, "pretrain.optimizer.lr must be a valid number, got True"),
        ("pretrain.optimizer.lr", float("inf"), "pretrain.optimizer.lr must be a finite number"),
        ("pretrain.views", [32], "pretrain.views must be a section, keys with values under it, got a list"),
        ("pretrain.backbone.kwargs", {"depths": [2, 2]}, "pretrain.backbone.kwargs.depths must be true, false, a fini"),
        ("probe.few_shot.shots", [None], "probe.few_shot.shots.0 must be a valid integer, got None"),
        ("overrides", {"when": {}}, "overrides must be a list, got a section; write overrides: [...]"),
    ],
)
def test_wrong_type(tmp_path, path, value, message):
    (problem,) = problems(written(tmp_path / "params.yaml", nested(path, value)))
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("axis", "values", "copy"),
    [
        ("datasets", ["digits", "dtd", "digits"], "digits"),
        ("backbones", ["a", "a"], "a"),
        ("lambdas", [0.1, 0.1], "0.1"),
        ("lambdas", [1, 1.0], "1, 1.0"),
        ("seeds", [0, 1, 0], "0"),
    ],
)
def test_grid_refuses_copies(tmp_path, axis, values, copy):
    (problem,) = problems(written(tmp_path / "params.yaml", {"grid": {axis: values}}))
    assert problem == f"grid.{axis} must not repeat a value, got {copy} more than once; remove the copies"


def test_a_large_grid_is_allowed_by_its_limit(tmp_path):
    grid = {"seeds": list(range(5001)), "lambdas": [0.1, 0.2]}
    (problem,) = problems(written(tmp_path / "params.yaml", {"grid": grid}))
    assert problem == (
        "grid must have at most max_cells = 10000 cells, got 1 datasets x 1 backbones x 2 lambdas x 5001 seeds = "
        "10002; shorten an axis or raise grid.max_cells"
    )
    params = load_params(written(tmp_path / "params.yaml", {"grid": {**grid, "max_cells": 10_002}}))
    assert len(grid_cells(params, "g")) == 10_002


def test_unknown_data_set_comes_with_the_nearest_match_and_the_remedy(tmp_path):
    (problem,) = problems(written(tmp_path / "params.yaml", {"grid": {"datasets": ["dtdd", "digits"]}}))
    assert problem == (
        "unknown data set 'dtdd' in grid.datasets; did you mean 'dtd'? known: digits, dtd; add it under datasets:"
    )


@pytest.mark.parametrize("section", ["grid", "datasets", "pretrain"])
def test_missing_section(tmp_path, monkeypatch, section):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in BASE.items() if key != section}))
    assert f"{section} is required; add it" in problems(path)


@pytest.mark.parametrize(("section", "key"), [("pretrain", "epochs"), ("pretrain", "batch_size"), ("grid", "seeds")])
def test_missing_key(tmp_path, section, key):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({**BASE, section: {k: v for k, v in BASE[section].items() if k != key}}))
    assert problems(path) == [f"{section}.{key} is required; add it"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "kagle"}, "datasets.new.source: unknown source 'kagle'; known: arrays, bundled"),
        ({"source": "foldr"}, "datasets.new.source: unknown source 'foldr'; did you mean 'folder'?"),
        ({"path": "x"}, "datasets.new.source is required"),
        ({"source": "folder"}, "datasets.new needs exactly one of path (local) and url (download)"),
        ({"source": "sklearn", "test_frac": "0.2"}, "datasets.new.test_frac must be a valid number, got '0.2'"),
    ],
)
def test_broken_data_set(tmp_path, entry, message):
    (problem,) = problems(written(tmp_path / "params.yaml", {"datasets": {"new": entry}}))
    assert problem.startswith(message)


def test_all_problems_are_reported_at_once(tmp_path):
    change = {
        "grid": {"datasets": ["dtdd"], "lambdas": [2]},
        "pretrain": {"epochs": 0, "views": {"globl_px": 3}},
        "overrides": [{"when": {}, "pretrain": {"batch_size": 0}}, {"when": {}, "probe": {"knn": {"k": 0}}}],
    }
    found = problems(written(tmp_path / "params.yaml", change))
    assert len(found) == 6
    for words in ("dtdd", "lambdas.0", "pretrain.epochs", "globl_px", "0.pretrain.batch_size", "1.probe.knn.k"):
        assert sum(words in problem for problem in found) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML in line 1"),
        ("grid: 1\ngrid: 2", 'not YAML in line 2: found duplicate key "grid"'),
        ("a: !!python/name:os.system", "not YAML in line 1"),
        ("a: \x01", "not readable as YAML: unacceptable character"),
        ("- grid", "must be a mapping of sections, got list"),
        ("", "must be a mapping of sections, got NoneType"),
    ],
)
def test_not_a_parameter_file(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    (problem,) = problems(path)
    assert problem.startswith(message)


def test_missing_file_says_where_to_run(tmp_path):
    assert problems(tmp_path / "params.yaml") == ["the file does not exist; run from the repository root"]


def test_did_you_mean_shows_at_most_forty_names():
    assert did_you_mean("x", []) == "; known: none"
    assert did_you_mean("name07", [f"name{i:02}" for i in range(50)]).endswith("name39, ... (50 in all)")
