"""Claims of benchmarks/ that hold without a stopwatch:

1. A step cut into phases is pipeline.training's step.
2. channels_last and compile change a step's numbers by rounding alone.
3. `make gpu`, without a GPU: the dry run goes through all parts on a CPU, writes figures beside their bars, and names
   what it could not do; an error or too little time costs a part and not the report; without a GPU the program says so
   and exits with 2.
"""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from small_training import packed

from benchmarks import gpu, gpu_cifar, profile, step, stream
from benchmarks.gpu_report import Figure, Report
from pipeline.data.loader import batches

pytestmark = pytest.mark.seconds

CPU = torch.device("cpu")
MODEL = "test_convnext"


@pytest.fixture
def few_images(monkeypatch):
    for module in (step, profile):
        monkeypatch.setattr(module, "BATCH", 4)
    return step.made_images(4)


def test_a_step_in_phases_is_a_step(few_images):
    (batch,) = batches(few_images, torch.arange(4), 4)
    whole, phased = (step.make_learner(MODEL, CPU) for _ in range(2))
    step.train_step(whole, batch, step.make_objective(), 0)
    for group in phased.optimizer.param_groups:
        group["lr"] = 1e-4
    profile.step(phased, batch, step.make_objective(), 0)
    for name, weights in whole.backbone.state_dict().items():
        torch.testing.assert_close(phased.backbone.state_dict()[name], weights, msg=name)


@pytest.mark.parametrize(
    "setting",
    ["channels_last", pytest.param("compile", marks=pytest.mark.slow), pytest.param("both", marks=pytest.mark.slow)],
)
def test_a_switch_changes_a_step_by_rounding(few_images, setting):
    if "compile" in step.SETTINGS[setting] and step.why_not(MODEL, few_images, CPU):
        pytest.skip("this machine has no compiler")
    losses = []
    for changes in ({}, step.SETTINGS[setting]):
        learner, objective, taken = step.make_learner(MODEL, CPU, **changes), step.make_objective(), []
        (batch,) = batches(few_images, torch.arange(4), 4)

        def recorded(projections, index, objective=objective, taken=taken):
            taken.append(objective(projections, index))
            return taken[-1]

        for index in range(2):
            step.train_step(learner, batch, recorded, index)
        losses.append([float(loss["loss"].detach()) for loss in taken])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# make gpu

PARTS = ["Tests that need a GPU", "SIGReg", "Step: test_vit, 32 px, 3 views", "Loader", "CIFAR-10"]


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run on the CPU")
def test_the_dry_run_reports_every_part(tmp_path, monkeypatch, capsys):
    packed(tmp_path / "set")
    monkeypatch.setattr(gpu_cifar, "STATES", tmp_path)
    monkeypatch.setattr(stream, "NUM_DISTINCT", 2)
    command = ["gpu", "--tiny", "--out", str(tmp_path / "out"), "--cifar10", str(tmp_path / "set")]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu.main() == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert list(told["figures"]) == PARTS
    values = {figure["name"]: figure["value"] for part in told["figures"].values() for figure in part}
    assert values["(64, 8, 16, 5): value off the plain form"] < 1e-4 and values["1 workers"] > 0
    assert 0 <= values["linear top-1 after 1 epochs"] <= 1e2
    assert not [line for line in told["undone"] if "ended by" in line], told["undone"]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "none that torch can use" in text and "A dry run of tiny sizes" in text and "91.02" in text
    assert any(path.suffix == ".pt" for path in (tmp_path / "states").rglob("*"))  # from which the next call goes on


def test_an_error_costs_one_part_and_too_little_time_is_told(tmp_path):
    report = Report(tmp_path, time.monotonic() + 100, tiny=False)

    def broken():
        yield Figure("first", 1.0, "s", "<= 2", True)
        raise RuntimeError("out of memory")

    report.run("a", broken, needs_s=1)
    report.run("b", broken, needs_s=1000)
    report.run("c", lambda: iter([Figure("slow", 3.0, "s", "<= 2", False)]), needs_s=1)
    assert report.failed() == ["c: slow"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- a: ended by RuntimeError: out of memory" in text and " s were left, it needs about 1000" in text
    assert "| first | 1 s | <= 2 | pass |" in text and "| slow | 3 s | <= 2 | **fail** |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_report_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path)])
    assert gpu.main() == 2
    assert "everything on a GPU: torch finds none" in (tmp_path / "report.md").read_text(encoding="utf-8")
