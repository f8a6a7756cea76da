"""Claims about params.yaml, beside what tests/graph/test_bad_inputs.py tries through the command:

1. The committed file is valid; the defaults of `pretrain.views` are those of the views themselves.
2. A broken rule is refused in a line that has the path, the rule and the value; all problems of a file come at once.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from bad_settings import nested
from params_file import problems, written

from pipeline.data.views.multicrop import Multicrop
from pipeline.runtime.errors import did_you_mean
from pipeline.schema.pretrain import Views
from pipeline.settings.cells import grid_cells
from pipeline.settings.params import load_params

ROOT = Path(__file__).parents[2]


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


OUT_OF_RANGE = {
    "grid.lambdas": ([0.1, 1.5], "grid.lambdas.1 must be less than or equal to 1, got 1.5"),
    "pretrain.precision": ("float16", "pretrain.precision must be 'auto', 'float32' or 'bfloat16', got 'float16'"),
    "pretrain.device": ("gpu", "pretrain.device must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
    "pretrain.views.global_scale": ([0.3, 1.5], "must not exceed the whole image (1.0), got [0.3, 1.5]"),
    "pretrain.views.local_scale": ([0.3, 0.1], "[low, high] with 0 < low <= high, got [0.3, 0.1]"),
    "pretrain.views.std": ([0.2, 0.2, 0], "must be > 0 in each channel, got [0.2, 0.2, 0"),
}


@pytest.mark.parametrize("path", OUT_OF_RANGE)
def test_value_out_of_range(tmp_path, path):
    value, message = OUT_OF_RANGE[path]
    (problem,) = problems(written(tmp_path / "params.yaml", nested(path, value)))
    assert path in problem and message in problem


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


def test_did_you_mean_shows_at_most_forty_names():
    assert did_you_mean("x", []) == "; known: none"
    assert did_you_mean("name07", [f"name{i:02}" for i in range(50)]).endswith("name39, ... (50 in all)")
