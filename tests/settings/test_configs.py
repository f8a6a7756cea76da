"""Claims about the settings of the cells:

1. Names that do not exist are reported with the nearest match, and every backbone that does not fit, once each.
2. The files of a cell hold all that the stages need and survive JSON unchanged; what changes no result stands apart.
3. A setting changes the files of the stages and cells that it determines, and no others.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import write_json
from pipeline.schema.parameters import Params
from pipeline.schema.resolved import PretrainRun, ProbeRun
from pipeline.settings.cells import Resolver, grid_cells, merge
from pipeline.settings.grid import Listing
from pipeline.settings.resolve import resolve_listing

pytestmark = pytest.mark.seconds

BASE = {
    "grid": {"datasets": ["digits"], "backbones": ["test_vit", "test_resnet"], "lambdas": [0.05, 1], "seeds": [0]},
    "datasets": {"digits": {"source": "sklearn"}, "new": {"source": "bundled"}},
    "pretrain": {
        "epochs": 2,
        "batch_size": 64,
        "schedule": {"warmup_epochs": 1},
        "views": {"global_px": 32, "local_px": 16},
    },
}


def resolved(change=None, grid="default"):
    settings = Resolver(Params.model_validate(merge(BASE, change or {})))
    cells = grid_cells(settings.params, grid)
    return resolve_listing(Listing(Path("params.yaml"), settings, grid, cells, {cell: cell for cell in cells}))


@cache
def untouched():
    return files_of()


def files_of(change=None):
    """Return {cell key: (pretrain.json, probe.json)} as text."""
    configs, problems = resolved(change)
    assert problems == []
    names = ("pretrain.json", "probe.json")
    return {cell.key: tuple(json.dumps(config.files()[name]) for name in names) for cell, config in configs.items()}


# 1. Problems


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            {"grid": {"backbones": ["test_vitt", "resnet118", "test_vit"]}},
            [
                "unknown backbone 'test_vitt' in grid.backbones; did you mean 'test_vit'?",
                "unknown backbone 'resnet118",
            ],
        ),
        (
            {"pretrain": {"backbone": {"patch_size": 8}}},
            ["backbone 'test_resnet' takes no 'patch_size'"],
        ),
        (
            {"pretrain": {"layout": {"micro_batch_size": 4}}},
            ["backbone 'test_resnet' has BatchNorm, so that micro-batches would change the result"],
        ),
        (
            {"pretrain": {"layout": {"checkpoint_activations": True}}},
            ["backbone 'test_resnet' has BatchNorm, whose running statistics would take each batch twice"],
        ),
        (
            {
                "grid": {"backbones": ["dm_nfnet_f0", "coat_tiny"]},
                "pretrain": {"layout": {"checkpoint_activations": True, "sharded": True}, "views": {"num_local": 0}},
            },
            [
                "backbone 'dm_nfnet_f0' has a parameter that is a single number, which cannot be divided",
                "backbone 'coat_tiny' cannot compute its blocks again in timm",
            ],
        ),
        (
            {"pretrain": {"views": {"global_px": 24, "local_px": 24}, "batch_size": 2}},
            ["backbone 'test_vit' fails at 24 px", "backbone 'test_resnet' normalises over the batch"],
        ),
    ],
)
def test_problems_are_named_once_each(change, messages):
    _, problems = resolved(change)
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert problem.startswith(message)


# 2. Contents


def test_files_read_back_as_the_same_settings(tmp_path):
    configs, problems = resolved(grid="table5")
    assert problems == [] and len(configs) == 4
    for cell, config in configs.items():
        for name, content in config.files().items():
            write_json(tmp_path / name, content)
        for name, run in (("pretrain", PretrainRun), ("probe", ProbeRun)):
            found = run.read(tmp_path / f"{name}.json")
            assert found == getattr(config, name)
            assert (found.cell, found.grid, found.data) == (cell.key, "table5", "data/digits")
            assert found.out == f"runs/table5/{cell.key}/{name}"
            assert (found.dataset, found.backbone, found.lamb, found.seed) == (
                cell.dataset, cell.backbone, cell.lamb, cell.seed,
            )  # fmt: skip
            assert str(found.lamb) == str(cell.lamb)  # 1 and not 1.0, as DVC spells it


def test_files_hold_every_setting_of_their_section():
    params = Params.model_validate(BASE)
    config = next(iter(resolved()[0].values()))
    files = config.files()
    runtime = {name: value for name, value in files["execution.json"].items() if name != "probe"}
    assert files["pretrain.json"]["pretrain"] | runtime == params.pretrain.model_dump()
    assert set(runtime) == {"loader", "health", "checkpoint", "layout"}
    assert files["probe.json"]["probe"] == files["execution.json"]["probe"] == params.probe.model_dump()
    assert config.pretrain.embed_dim == 64
    assert config.pretrain.backbone_kwargs == config.probe.backbone_kwargs
    assert config.probe.backbone_kwargs == {"img_size": 32, "dynamic_img_size": True}
    assert config.probe.weights == f"{config.pretrain.out}/backbone.safetensors"


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"spare": 1}, "unknown key spare"), ({"seed": "0"}, "seed must be a valid integer"), ({"out": None}, "out must")],
)
def test_a_file_of_another_version_is_named(tmp_path, change, problem):
    files = next(iter(resolved()[0].values())).files()
    write_json(tmp_path / "execution.json", files["execution.json"])
    write_json(tmp_path / "pretrain.json", {**files["pretrain.json"], **change})
    with pytest.raises(ResultError, match=rf"pretrain.json is not as this version writes it \({problem}.*dvc repro"):
        PretrainRun.read(tmp_path / "pretrain.json")


# 3. What changes what


@pytest.mark.parametrize(
    ("change", "pretrain_changes", "probe_changes"),
    [
        ({"probe": {"knn": {"k": 5}}}, False, True),
        ({"pretrain": {"sigreg": {"num_slices": 32}}}, True, True),  # held-out loss
        ({"pretrain": {"health": {"num_images": 0}}}, False, False),
        ({"pretrain": {"health": {"num_images": 0}, "alarms": {"action": "stop"}}}, True, False),
        ({"pretrain": {"views": {"mean": [0.5, 0.5, 0.5]}}}, True, True),
        ({"report": {"title": "another"}}, False, False),
        ({"pretrain": {"loader": {"num_workers": 5}, "checkpoint": {"minutes": 1}}}, False, False),
    ],
)
def test_a_setting_changes_the_stages_that_it_determines(change, pretrain_changes, probe_changes):
    before, after = untouched(), files_of(change)
    assert before.keys() == after.keys()
    assert {(a[0] != b[0], a[1] != b[1]) for a, b in zip(before.values(), after.values(), strict=True)} == {
        (pretrain_changes, probe_changes)
    }


def test_longer_axes_leave_the_other_cells_as_they_are():
    longer = {"datasets": ["new", "digits"], "backbones": ["test_byobnet", "test_vit", "test_resnet"], "seeds": [1, 0]}
    before, after = untouched(), files_of({"grid": longer})
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before
