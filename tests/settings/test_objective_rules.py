"""Claims: settings of objectives are checked like any section; an objective that views, lambdas or heuristics do not
suit is refused, with what to change; every objective of the project suits two views and one lambda as it is."""

from __future__ import annotations

import json

import pytest
import yaml

from pipeline.losses.objective import OBJECTIVES
from pipeline.schema.pretrain import Pretrain
from pipeline.settings.dvc_graph import graph_text
from pipeline.settings.grid import open_listing
from pipeline.settings.objective_rules import objective_problems


def problems(lambdas=(0.1,), **changes):
    views = {"num_global": 2, "num_local": 0} | changes.pop("views", {})
    settings = {"epochs": 20, "batch_size": 8, "views": views, **changes}
    return objective_problems(Pretrain.model_validate(settings), lambdas)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_sound(name):
    told = {} if name == "lejepa" else {name: {}}
    assert problems(objective=name, objectives=told) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "vicregg"}, "pretrain.objective: unknown objective 'vicregg'; did you mean 'vicreg'?"),
        (
            {"objectives": {"vicreg": {"covarianze": 1.0}}},
            "unknown key pretrain.objectives.vicreg.covarianze; did you mean",
        ),
        (
            {"objectives": {"vicreg": {"covariance": "1"}}},
            "pretrain.objectives.vicreg.covariance must be a valid number",
        ),
        (
            {"objectives": {"simclr": {"temperature": 0.0}}},
            "pretrain.objectives.simclr: temperature must be > 0, got 0",
        ),
        (
            {"objectives": {"lejepa": {"num_slices": 8}}},
            "the settings of lejepa stand in pretrain.sigreg; move them there",
        ),
        ({"objective": "byol", "views": {"num_global": 1}}, "pretrain.views must have >= 2 views an image for "),
        (
            {"objective": "simclr", "lambdas": (0.1, 0.2)},
            "grid.lambdas must be a single value for pretrain.objective simclr",
        ),
        (
            {"objective": "vicreg", "swa": {"enabled": True}},
            "pretrain.swa.enabled must be false for pretrain.objective vicreg",
        ),
        (
            {"sigreg": {"statistic": "watsen"}},
            "unknown statistic 'watsen' in pretrain.sigreg.statistic; did you mean 'watson'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    (found,) = problems(**changes)
    assert message in found


def test_local_views_make_pairs_with_global_ones():
    assert problems(objective="simclr", views={"num_global": 1, "num_local": 2}) == []


def test_regularised_objectives_take_several_lambdas_and_the_heuristics():
    assert problems(objective="visreg", lambdas=(0.1, 0.9), predictor={"enabled": True}, swa={"enabled": True}) == []


def test_a_pipeline_with_an_own_objective_depends_on_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "objectives").mkdir()
    (tmp_path / "pyproject.toml").touch()
    grid = {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.1], "seeds": [0]}
    deps = {}
    for name in ("lejepa", "objectives.sphere.Sphere"):
        views = {"num_global": 2, "num_local": 0, "global_px": 32}
        told = {"epochs": 20, "batch_size": 8, "views": views, "objective": name}
        datasets = {"digits": {"source": "sklearn", "dataset": "digits"}}
        path = tmp_path / name.partition(".")[0] / "params.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"grid": grid, "datasets": datasets, "pretrain": told}), encoding="utf-8")
        graph = graph_text(open_listing(path.relative_to(tmp_path), whole=True))
        deps[name] = yaml.safe_load(graph)["stages"]["configure"]["deps"]
    assert "objectives" in deps["objectives.sphere.Sphere"] and "objectives" not in deps["lejepa"]
