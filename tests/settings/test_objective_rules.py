"""Claims: settings of objectives are checked like any section; an objective that views, lambdas or heuristics do not
suit is refused, with what to change; an own objective is built and tried once before anything is trained, and all files
that it imports are told; every objective of the project suits two views and one lambda as it is."""

from __future__ import annotations

import sys

import pytest
import torch

from pipeline.core.results import FIXED
from pipeline.losses import objective
from pipeline.losses.objective import OBJECTIVES, RunObjective
from pipeline.runtime import rooms
from pipeline.schema.pretrain import Pretrain
from pipeline.settings.objective_rules import RESERVED, objective_problems
from pipeline.training import loop


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
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    (found,) = problems(**changes)
    assert message in found


OWN = """
from dataclasses import dataclass, field

import torch
from torch import nn

from pipeline.losses.projected import Objective


@dataclass(frozen=True)
class Mine(Objective):
"""
SOUND = "    def __call__(self, seen):\n        return {'loss': seen.projections.square().mean()}\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function from the body of the class objectives.mine.Mine to the problems of choosing it."""
    (tmp_path / "objectives").mkdir()
    monkeypatch.setattr(objective, "CLONE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def problems_of(body, **changes):
        for name in ("objectives", "objectives.mine"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "objectives/mine.py").write_text(OWN + body, encoding="utf-8")
        return problems(objective="objectives.mine.Mine", **changes)

    return problems_of


def answering(answer):
    return f"    def __call__(self, seen):\n        z = seen.projections.mean()\n        return {answer}\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"    sharpness: float\n{SOUND}", "pretrain.objectives.objectives.mine.Mine.sharpness is required; add it"),
        (
            f"    def __post_init__(self):\n        raise KeyError('dim')\n{SOUND}",
            "pretrain.objectives.objectives.mine.Mine: KeyError: 'dim'",
        ),
        (answering("{'align_loss': z}"), "must return `loss`, which is minimised, got align_loss"),
        (answering("{'loss': z.detach()}"), "got one without gradient"),
        (answering("{'loss': z, 'lr': z, 'epochs': z}"), "must not name a part epochs, lr, which history.csv or"),
        (answering("{'loss': z, 'a,b': z}"), "must name its parts with letters, digits and '_', got 'a,b'"),
    ],
)
def test_an_own_objective_that_cannot_train_is_refused(own, body, message):
    (found,) = own(body)
    assert found.startswith("pretrain.objective") and message in found


def test_an_own_objective_is_tried_with_all_that_a_run_shows_it(own):
    body = """
    weights: list[float] = field(default_factory=lambda: [1.0])
    needs_head = needs_labels = True

    def head(self, proj_dim, num_classes):
        return nn.Linear(proj_dim, 3)

    def target_decay(self, progress):
        return 0.9

    def __call__(self, seen):
        assert seen.predictions.shape == (4, 8, 3) and seen.targets.shape == (2, 8, 64) and seen.labels.shape == (8,)
        return {"loss": seen.predictions.square().mean(), "first_loss": seen.projections.mean()}
"""
    assert own(body, views={"num_local": 2}) == []


def test_reserved_names_are_what_a_run_writes():
    row = {"epoch": 1, "loss": 0.5, "lr": 0.1}
    summary = loop.summary(torch.nn.Linear(1, 1), 1, 8, 4, [row])
    written = {*summary, *RunObjective(OBJECTIVES["lejepa"](), 0.1, 2, seed=0).weighing(8), *FIXED} - {"loss"}
    assert written < RESERVED


def test_the_settings_of_sigreg_count_for_lejepa_alone():
    keys = {}
    for name in ("lejepa", "visreg"):
        for num_slices in (8, 16):
            told = {"epochs": 20, "batch_size": 8, "objective": name, "sigreg": {"num_slices": num_slices}}
            keys[name, num_slices] = Pretrain.model_validate(told).result_key()
    assert keys["lejepa", 8] != keys["lejepa", 16] and keys["visreg", 8] == keys["visreg", 16]


def test_an_own_objective_has_the_files_that_its_import_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "LIBRARY", tmp_path / "pipeline")
    files = {
        "objectives/__init__.py": "",
        "objectives/mine/__init__.py": "from . import terms\nfrom ..shared.norms import normed",
        "objectives/mine/terms.py": "import math",
        "objectives/mine/other.py": "",
        "objectives/shared/__init__.py": "",
        "objectives/shared/norms.py": "from .. import constants",
        "objectives/constants.py": "",
        "objectives/unrelated.py": "",
    }
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    not_loaded = {"objectives/mine/other.py", "objectives/unrelated.py"}
    assert rooms.own_objective("objectives.mine.Sphere").keys() == files.keys() - not_loaded
    before = rooms.own_objective("objectives.mine.Sphere")
    (tmp_path / "objectives/mine/terms.py").write_text("import sys", encoding="utf-8")
    assert rooms.own_objective("objectives.mine.Sphere") != before and rooms.own_objective("lejepa") == {}
    parents = {"objectives/__init__.py", "objectives/mine/__init__.py"}
    assert rooms.own_objective("objectives.mine.other.Sphere").keys() >= parents | {"objectives/mine/other.py"}
