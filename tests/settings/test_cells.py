"""Claims about the cells of a grid:

1. Overrides are applied in order to the cells that they match and change nothing else.
2. A cell's key, and so its folder, is spelled as DVC spells it in dvc.yaml, however the number is written.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from params_file import BASE, load, problems, written

from pipeline.runtime.project import grid_name
from pipeline.settings.cells import Resolver, grid_cells, merge
from pipeline.settings.params import load_params

ROOT = Path(__file__).parents[2]


# 1. Overrides


def test_overrides_apply_in_order_to_the_cells_they_match(tmp_path):
    params = load(
        tmp_path,
        {
            "grid": {"datasets": ["digits", "dtd"], "backbones": ["test_vit", "test_resnet"]},
            "overrides": [
                {"when": {"backbone": "*vit*"}, "pretrain": {"batch_size": 8, "views": {"num_local": 0}}},
                {"when": {"dataset": "digits", "backbone": "*vit"}, "pretrain": {"batch_size": 16}},
                {"when": {"dataset": "d[ti]*"}, "probe": {"knn": {"k": 3}}},
                {"when": {"dataset": "DIGIT*"}, "probe": {"knn": {"k": 99}}},
            ],
        },
    )
    found = {(c.dataset, c.backbone): Resolver(params)(c)[:2] for c in grid_cells(params, "g")}
    assert {key: value[0].batch_size for key, value in found.items()} == {
        ("digits", "test_vit"): 16,
        ("digits", "test_resnet"): 64,
        ("dtd", "test_vit"): 8,
        ("dtd", "test_resnet"): 64,
    }
    assert {value[1].knn.k for value in found.values()} == {3}
    changed = params.pretrain.model_dump() | {"batch_size": 16}
    assert found["digits", "test_vit"][0].model_dump() == merge(changed, {"views": {"num_local": 0}})
    assert found["dtd", "test_resnet"][0] == params.pretrain


def test_overrides_that_contradict_each_other_name_the_cells(tmp_path):
    long, short = {"pretrain": {"schedule": {"warmup_epochs": 15}}}, {"pretrain": {"epochs": 12}}
    change = {
        "grid": {"datasets": ["digits", "dtd"], "seeds": [0, 1]},
        "overrides": [{"when": {"dataset": "d*"}, **long}, {"when": {"dataset": "dtd"}, **short}],
    }
    assert problems(written(tmp_path / "params.yaml", change)) == [
        "overrides of dtd with test_vit together give pretrain.schedule.warmup_epochs must be < epochs, got 15 of 12"
    ]


def test_an_axis_may_set_an_own_objective_whose_name_has_dots(tmp_path):
    path = "pretrain.objectives.objectives.sphere.Sphere.sharpness"
    params = load(tmp_path, {"grid": {"axes": {"sharpness": {"sets": [path], "values": [1.0, 2.0]}}}})
    found = [Resolver(params)(cell).pretrain.objectives for cell in grid_cells(params, "g")]
    assert found == [{"objectives.sphere.Sphere": {"sharpness": value}} for value in (1.0, 2.0)]


# 2. Keys of cells


@pytest.mark.seconds
@pytest.mark.parametrize("lambdas", ["0.05, 0.10, .5, 1, 0, 1e-3, 1E-5, 0.1e-6", "1.0, 0.0"])
def test_keys_are_spelled_as_in_dvc_yaml(tmp_path, monkeypatch, lambdas):
    datasets = {"digits": {"source": "sklearn"}, "a-b_2": {"source": "bundled"}}
    settings = {"datasets": datasets, "pretrain": BASE["pretrain"], "density": {"sets": ["digits"]}}
    grid = f"grid: {{datasets: [digits, a-b_2], backbones: [test_vit], lambdas: [{lambdas}], seeds: [0, 010, 7]}}\n"
    (tmp_path / "params.yaml").write_text(grid + yaml.safe_dump(settings), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [stage.cmd for stage in Repo.init(no_scm=True).index.stages]
    for name in ("pretrain", "probe"):
        cells = grid_cells(load_params("params.yaml"), grid_name("params.yaml"))
        assert [command.split()[-1] for command in commands if f"stages.{name} " in command] == [
            str(cell.configs / f"{name}.json") for cell in cells
        ]
