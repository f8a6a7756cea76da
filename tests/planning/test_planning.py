"""Claims about `python -m stages.plan`:

1. It has every cell with what of it is on disk and what finished trainings took; weights that another grid makes are
   counted there, once; what is done costs nothing and is not measured.
2. Images and sizes are those of the packed set, else of the pictures in the repository, else what its publisher says;
   those of a set that nobody knows are unknown, and so is their cost.
3. What has to be fetched, by the pipeline and by hand, is named.
4. A cost is the sum of its parts, of comparisons of objectives too; what the budget of time leaves out is scaled by
   operations and marked. A real measurement predicts a real step. GPU-hours are operations over a rate that is assumed
   or was measured.
5. What is broken is named, and the other pipelines are planned all the same.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from plan_files import BASE, BY_HAND, FIT_S, RATES, START_S, fake_measurements, finish, pack, planned, tasks_of, write

from pipeline.planning import costs, plan_text, step_time
from pipeline.planning.gpu_hours import gpu_hours_text
from pipeline.planning.inventory import read_pipeline
from pipeline.planning.set_facts import set_facts
from pipeline.runtime.files import write_json, write_text
from pipeline.schema.parameters import Pretrain
from pipeline.settings.dvc_graph import cells_text
from pipeline.settings.grid import open_listing
from pipeline.settings.params import load_params
from stages import plan

pytestmark = pytest.mark.seconds

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PROGRAM_S = START_S + step_time.STAGE_S


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def timed(monkeypatch) -> list[str]:
    return fake_measurements(monkeypatch)


def printed(capsys, *pipelines: str, code: int = 0) -> str:
    assert plan.main(*pipelines) == code
    return capsys.readouterr().out


# 1. Cells


def test_cells_and_what_finished_ones_took(timed, capsys):
    first, second, *_ = tasks_of()
    finish(first, "pretrain", "probe")
    finish(second, "pretrain")
    (second.cell.folder / "pretrain/provenance.json").write_text(json.dumps({"wall_s": 600.0}))
    tasks, measured = planned()
    assert [task.cell.key for task in tasks] == [
        f"digits--test_vit--lambda{lamb}--seed{seed}" for lamb in (0.02, 0.1) for seed in (0, 1)
    ]
    both = [[cost(task, measured) for cost in (costs.training_seconds, costs.probing_seconds)] for task in tasks]
    assert both[0] == [0, 0] and both[1][0] == 0 and both[1][1] == both[2][1] > 0 and both[2][0] > 0
    out = printed(capsys)
    assert "4 cells, 1 done; 4 pretrainings, 2 done" in out
    assert "10 min for 1 finished pretrainings, as their provenance says" in out and "quiet machine" in out


@pytest.fixture
def shared(timed):
    """paper/two probes, fine-tuned and frozen, what paper/one trains, and a public model."""
    write({}, "paper/one/params.yaml")
    grid = {"models": ["public"], "axes": {"mode": {"sets": ["probe.mode"], "values": ["frozen", "finetune"]}}}
    write({"grid": grid, "shares": ["one"]}, "paper/two/params.yaml")
    for name in ("one", "two"):
        listing = open_listing(f"paper/{name}/params.yaml", whole=True)
        Path(f"paper/{name}/cells.yaml").write_text(cells_text(listing))
    return [read_pipeline(Path(f"paper/{name}/params.yaml")) for name in ("one", "two")]


def test_weights_of_another_grid_are_counted_there(shared, capsys):
    one, two = shared
    assert len(two.tasks) == 2 * 4 + 2 * 2 and len(costs.sources(one.tasks + two.tasks)) == 4 + 1
    out = printed(capsys, "paper")
    assert "12 cells, 0 done; 0 pretrainings, 0 done; 4 more from one" in out and "pretraining  4 to do" in out


# 2. Images and sizes


def test_the_catalogue_of_the_root_is_known_before_it_is_downloaded(monkeypatch):
    monkeypatch.chdir(ROOT)
    facts = {name: set_facts(Path("nowhere") / name, entry) for name, entry in load_params().datasets.items()}
    assert None not in facts.values()
    assert facts["fashion-mnist-8k"][:3] == (6000, 2000, 10) and facts["fashion-mnist-8k"].canvas(20) == (1, 20, 20)
    assert facts["cifar10"].canvas(256) == (3, 32, 32) and facts["dtd"].canvas(256) == (3, 256, 256)
    with Path("paper/images.csv").open(encoding="utf-8", newline="") as file:
        counts = {row["dataset"]: int(row["here"]) for row in csv.DictReader(file)}
    assert counts == {name: facts[name].num_train for name in counts}


def test_a_set_that_nobody_knows_has_unknown_cost(timed, capsys):
    write({"grid": {"datasets": ["digits", "mine"]}})
    out = " ".join(printed(capsys).split())
    assert "+ 10 unknown left on this machine" in out  # 4 pretrainings, 4 probes, packing, pictures
    assert "at least" in out and "unknown until downloaded for mine" in out


# 3. What has to be fetched


def test_what_is_fetched_and_what_a_person_must_fetch():
    Path("data/by-hand/big").mkdir(parents=True)
    path = write({"grid": {"datasets": ["digits", "big", "mine", "cifar10"]}})
    downloads, by_hand = plan_text.needs([read_pipeline(path)])
    assert downloads == ["cifar10 (torchvision.datasets.CIFAR10)", "mine (huggingface.co/datasets/mine/pictures)"]
    told = "\n".join(by_hand)
    assert all(part in told for part in (BY_HAND["what"], BY_HAND["from"], BY_HAND["path"], "a.tar (missing)"))
    Path("data/by-hand/big/a.tar").touch()
    pack("cifar10", 100, [30, 50])
    downloads, by_hand = plan_text.needs([read_pipeline(path)])
    assert "a.tar (there)" in "\n".join(by_hand) and len(downloads) == 1


# 4. Costs


def test_cost_is_the_sum_of_its_parts(timed):
    (task, *_), measured = planned()
    speed, facts = measured.speeds[task.shape], task.train_set
    an_image = 2 * speed.operations[32] + 4 * speed.operations[16]
    steps_s = 3 * (facts.num_train // 64) * (64 * an_image * RATES["train_s"] + speed.num_params * RATES["update_s"])
    decoding_s = facts.image_s / 2
    wanted_s = PROGRAM_S + facts.num_train * decoding_s + steps_s
    assert costs.training_seconds(task, measured) == pytest.approx(wanted_s)
    networks_s = 2 * (1797 * speed.operations[32] * RATES["embed_s"] + speed.embed_dim * FIT_S)
    wanted_s = PROGRAM_S + 1797 * decoding_s + networks_s + 32 * 32 * FIT_S
    assert costs.probing_seconds(task, measured) == pytest.approx(wanted_s)


COMPARED = {
    "datasets": ["digits"],
    "objectives": ["lejepa", "simclr"],
    "weights": {"lejepa": {"lambda": [0.02, 0.1]}, "simclr": {"temperature": [0.2]}},
    "learning_rates": [0.001, 0.003],
    "tuning_epochs": 2,
    "tuning_seed": 1,
    "holdout_frac": 0.5,
    "seeds": [0, 1],
    "num_train": 400,
    "backbone": "test_vit",
    "pretrain": BASE["pretrain"],
}


def test_comparisons_of_objectives_have_rows_and_a_cost(timed, capsys):
    write()
    Path("paper/side").mkdir(parents=True)
    Path("paper/side/params.yaml").write_text(yaml.safe_dump({"trials": COMPARED}))
    write_text(Path("runs/side/digits--simclr/rows.csv"), "")
    found = read_pipeline(Path("paper/side/params.yaml"))
    assert [(one.objective, one.num_tuned, one.num_compared, one.task.done) for one in found.comparisons] == [
        ("lejepa", 4, 2, False), ("simclr", 2, 4, True), ("baselines", 0, 0, False),
    ]  # fmt: skip
    measured, one = step_time.measure([found]), found.comparisons[0]
    speed = measured.speeds[one.task.shape]
    step_s = speed.step_s(2 * speed.operations[32] + 4 * speed.operations[16], 64)
    probe_s = (400 + 359) * speed.image_s(32) + speed.embed_dim * FIT_S
    num_steps = 4 * 2 * (200 // 64) + 2 * 3 * (400 // 64)
    wanted_s = num_steps * step_s + 6 * probe_s + PROGRAM_S
    assert costs.comparing_seconds(one, measured) == pytest.approx(wanted_s)
    assert [part.stage for part in costs.parts([found], measured)] == ["pack", "measure", "baselines", "report"]
    out = printed(capsys, "paper")
    assert "3 stages, 1 done; trainings of 2 epochs tune an objective, of 3 compare it" in out
    assert [line.split()[:5] for line in out.splitlines() if line.startswith("  digits")] == [
        ["digits", "lejepa", "4", "2", "no"],
        ["digits", "simclr", "2", "4", "yes"],
        ["digits", "baselines", "-", "-", "no"],
    ]


def test_gpu_hours_are_operations_over_a_rate_that_is_assumed_or_measured(timed):
    tasks, measured = planned()
    assert gpu_hours_text(tasks[:1], measured) == ""  # less than an hour
    huge = {
        shape: one._replace(operations=dict.fromkeys(one.operations, 10**15)) for shape, one in measured.speeds.items()
    }
    tflop = 3 * 6 * 1e3 * tasks[0].num_steps * 64
    text = gpu_hours_text(tasks[:1], measured._replace(speeds=huge))
    assert f"A100 (assumed) {tflop / (0.3 * 312) / 3600:,.0f}, H100 (assumed)" in text and "measured" not in text
    figure = {"unit": "TFLOP/s", "value": 100.0}
    told = {"tiny": False, "hardware": {"GPU": "NVIDIA A100-SXM4-80GB, 79 GiB"}, "figures": {"a step": [figure]}}
    write_json(Path("reports/gpu/report.json"), told)
    text = gpu_hours_text(tasks[:1], measured._replace(speeds=huge))
    assert text.startswith(f"NVIDIA A100-SXM4-80GB (measured) {tflop / 100 / 3600:,.0f}, H100 (assumed)")


def test_what_the_budget_leaves_out_is_scaled_and_marked(timed, capsys, monkeypatch):
    quick = step_time.time_shape
    monkeypatch.setattr(step_time, "time_shape", lambda task, *_: quick(task, *_) if "vit" in task.backbone else None)
    views = {"views": {"num_local": 0}}
    write({"grid": {"backbones": ["test_vit", "test_resnet"]}, "pretrain": views})
    out = printed(capsys)
    assert "~ scaled from the operations of test_vit: test_resnet" in out
    assert [" ~" in line for line in out.splitlines() if line.startswith("  digits")] == [False, True]


def test_a_real_step_is_timed_within_budget_and_memory(monkeypatch):
    (task, *_) = tasks_of(grid={"backbones": ["test_convnext"]}, pretrain={"views": {"num_local": 0}})
    found = step_time.sketch(task.backbone, task.pretrain)
    whole = step_time.time_shape(task, found, 30.0)
    assert whole.origin == "measured" and 0.01 < whole.step_s(2 * found.operations[32], 64) < 10
    assert step_time.time_shape(task, found, 1e-6).origin == "three passes of embedding"
    needed = step_time.BYTES_A_PARAM * found.num_params + 16.5 * 2 * found.num_bytes[32]
    monkeypatch.setattr(step_time, "free_bytes", lambda _: needed / step_time.FREE_FRAC)
    assert step_time.time_shape(task, found, 30.0).origin == "a step of 16 of 64 images"
    monkeypatch.setattr(step_time, "free_bytes", lambda _: found.num_params)
    assert step_time.time_shape(task, found, 30.0) is None


def test_operations_match_a_published_count():
    """timm's table of results gives 4.6 G multiply-adds for vit_small_patch16_224 without its classifier."""
    pretrain = Pretrain(epochs=20, batch_size=512, views={"num_local": 0})
    found = step_time.sketch("vit_small_patch16_224", pretrain)
    assert found.embed_dim == 384 and found.operations[224] / 2 == pytest.approx(4.6e9, rel=0.05)


def test_dropped_tokens_cost_nothing_in_training_alone(timed, capsys):
    plain, dropping = (
        {"views": {"num_local": 0}, "backbone": {"kwargs": told}} for told in ({}, {"patch_drop_rate": 0.5})
    )
    (task, *_), (other, *_) = (tasks_of(grid={"backbones": ["test_vit"]}, pretrain=told) for told in (plain, dropping))
    whole, half = (step_time.sketch("test_vit", one.pretrain)._replace(**RATES) for one in (task, other))
    assert 0.6 < half.operations[32] / whole.operations[32] < 0.7, "a class token and 2 of 4 others, of 5"
    assert half.num_bytes[32] < 0.75 * whole.num_bytes[32]
    assert half.image_s(32) == pytest.approx(whole.image_s(32)), "frozen, it sees all tokens"
    write({"grid": {"backbones": ["test_vit"]}, "pretrain": dropping})
    told = f"Dropped tokens leave test_vit {half.kept_frac:.0%} of the operations of a training step."
    assert printed(capsys).count(told) == 1


# 5. Pipelines and mistakes


def test_a_broken_pipeline_does_not_hide_the_others(timed, capsys):
    write({"pretrain": {"epochs": -1}}, "paper/broken/params.yaml")
    write({}, "paper/new/params.yaml")
    Path("paper/figure3").mkdir()
    Path("paper/figure3/params.yaml").write_text("anisotropy: {num_seeds: 3}\n")
    write({"pretrain": {"batch_size": 2048}})
    out = printed(capsys, "params.yaml", "paper", code=1)
    assert "params.yaml: 4 cells" in out and "PROBLEM: paper/broken/params.yaml has" in out and "epochs" in out
    assert "run: python -m stages.expand paper/new" in out and "figure3/params.yaml: no cells; runs in full" in out
    assert "PROBLEM: pretrain.batch_size must be <= the 1438 training images of digits" in out
    assert max(map(len, out.partition("PROBLEM")[0].splitlines())) <= plan_text.WIDTH
