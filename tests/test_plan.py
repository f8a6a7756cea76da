"""Claims: a plan lists every cell of the grid with what of it is on disk; images, views and sizes are exact where the
set is on disk or in the repository and said to be unknown elsewhere; the cost is the sum of its measured parts, zero
for what is done, and never a guess for what cannot be known; equal loads are measured once, those too large to measure
are scaled by their operations, and on a busy machine one thread is measured; what has to be fetched, by
the pipeline and by hand, is named; a broken path, backbone or batch size is named with its remedy; nothing is written;
a real measurement predicts a real run."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from pipeline import costs, plan_text, planning, speed, timing
from pipeline.errors import UserError
from stages import plan

ROOT = Path(__file__).parents[1]
STEP_S, EMBED_S, PROBE_S, START_S = 0.5, 0.01, 3.0, 7.0
SPEED = speed.Speed(
    num_params=1000, embed_dim=64, step_s=STEP_S, measured_batch=64, embed_image_s=EMBED_S, checkpoint_bytes=0
)
BY_HAND = {
    "what": "Some archive",
    "from": "https://example.org/register",
    "path": "data/by-hand/big",
    "files": ["a.tar"],
}


def grid(**changes) -> dict:
    return {
        "grid": {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.02, 0.1], "seeds": [0, 1]},
        "datasets": {
            "digits": {"source": "sklearn"},
            "cifar10": {"source": "torchvision", "dataset": "CIFAR10", "train": {"train": True}, "test": None},
            "big": {"source": "torchvision", "dataset": "ImageNet", "train": {}, "test": None, "by_hand": BY_HAND},
            "mine": {"source": "folder", "path": "/somewhere/pictures"},
        },
        "pretrain": {
            "epochs": 3,
            "batch_size": 64,
            "views": {"num_global": 2, "num_local": 4, "global_px": 32, "local_px": 16},
            "schedule": {"warmup_epochs": 1},
        },
    } | changes


def axes(**changes) -> dict:
    return {**grid()["grid"], **changes}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake_speed(monkeypatch):
    """Replace every measurement; the list tells which loads were asked for."""
    asked = []
    monkeypatch.setattr(speed, "measure", lambda load, budget_s: asked.append(load) or SPEED)
    monkeypatch.setattr(timing, "crowded", lambda: False)
    monkeypatch.setattr(timing, "probe_seconds", lambda **_: PROBE_S)
    monkeypatch.setattr(timing, "start_seconds", lambda: START_S)
    return asked


def write(settings: dict, path: str = "params.yaml") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(settings, sort_keys=False))
    return Path(path)


def finish(task: planning.Task, *stages: str) -> None:
    for stage in stages:
        (task.cell.folder / stage).mkdir(parents=True)
        (task.cell.folder / stage / "metrics.json").write_text("{}")


def tasks_of(settings: dict) -> list[planning.Task]:
    return planning.read_pipeline(write(settings)).tasks


def planned(settings: dict) -> tuple[list[planning.Task], costs.Measured]:
    tasks = tasks_of(settings)
    return tasks, costs.measure(tasks, note=lambda line: None)


def test_cells_and_what_is_done(folder):
    first, second, *_ = tasks_of(grid())
    finish(first, "pretrain", "probe")
    finish(second, "pretrain")
    tasks = tasks_of(grid())
    assert [task.cell.key for task in tasks] == [
        f"digits--test_vit--lambda{lamb}--seed{seed}" for lamb in (0.02, 0.1) for seed in (0, 1)
    ]
    done = [(task.pretrain_done, task.probe_done) for task in tasks]
    assert done == [(True, True), (True, False), (False, False), (False, False)]


def test_images_seen_leave_out_the_partial_batch(folder):
    task = tasks_of(grid())[0]
    assert task.facts.num_train + task.facts.num_test == 1797
    assert task.images_seen == 3 * (task.facts.num_train // 64) * 64
    assert task.num_views == 6


def test_overrides_reach_the_plan(folder):
    change = {"when": {"dataset": "digits"}, "pretrain": {"epochs": 5, "views": {"num_local": 0}}}
    task = tasks_of(grid(overrides=[change]))[0]
    assert (task.images_seen, task.num_views) == (5 * (task.facts.num_train // 64) * 64, 2)


def test_facts_of_the_bundled_set_are_those_of_its_file(folder):
    entry = planning.load_params(ROOT / "params.yaml").datasets["fashion-mnist-8k"]
    facts = planning.set_facts("fashion-mnist-8k", entry)
    assert (facts.num_train, facts.num_test, facts.num_classes, facts.is_packed) == (6000, 2000, 10, False)
    assert facts.canvas(256) == (1, 28, 28) and facts.canvas(20) == (1, 20, 20)


def pack_facts(name: str, num_train: int, width_px: list[int]) -> None:
    splits = {
        split: {"num_images": number, "per_class": [number], "files": [{"name": f"{split}-00000.arrow"}]}
        for split, number in (("train", num_train), ("test", 100))
    }
    meta = {"classes": ["a", "b"], "channels": 3, "splits": splits, "width_px": width_px, "height_px": [40, 40]}
    folder = Path("data") / name
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    for split in splits:
        (folder / f"{split}-00000.arrow").write_bytes(b"0" * 500)


def test_facts_of_a_packed_set_come_from_its_meta(folder):
    pack_facts("cifar10", 1000, [30, 50])
    facts = tasks_of(grid(grid=axes(datasets=["cifar10"])))[0].facts
    assert (facts.num_train, facts.num_test, facts.num_classes, facts.is_packed) == (1000, 100, 2, True)
    assert facts.canvas(256) == (3, 256, 256)
    assert facts.num_bytes == 1000 + (Path("data/cifar10/meta.json")).stat().st_size


def test_a_set_not_downloaded_has_unknown_cost(folder, fake_speed):
    tasks, measured = planned(grid(grid=axes(datasets=["digits", "cifar10"])))
    unknown = [task for task in tasks if task.cell.dataset == "cifar10"]
    assert [costs.cost_left(task, measured) for task in unknown] == [None] * 4
    assert {task.images_seen for task in unknown} == {None}
    text = "\n".join(plan_text.totals(planning.read_pipeline(Path("params.yaml")), measured))
    known = sum(task.images_seen for task in tasks if task.facts)
    assert f"at least {known:,}" in text
    assert "without 4 cells of unknown cost" in text
    assert "unknown until downloaded for cifar10" in text
    assert "cifar10 (torchvision.datasets.CIFAR10)" in text


def test_cost_is_the_sum_of_its_parts(folder, fake_speed):
    tasks, measured = planned(grid())
    facts = tasks[0].facts
    cost = costs.cost_left(tasks[0], measured)
    program_s = START_S + costs.DVC_STAGE_S + costs.TRACKED_RUN_S
    assert cost.pretrain_s == pytest.approx(3 * (facts.num_train // 64) * STEP_S)
    assert cost.probe_s == pytest.approx(2 * 1797 * EMBED_S + 3 * PROBE_S)
    assert cost.overhead_s == pytest.approx(2 * program_s + 3 * costs.TRACKED_EPOCH_S)
    assert cost.total_s == pytest.approx(cost.pretrain_s + cost.probe_s + cost.overhead_s)


def test_what_is_done_costs_nothing(folder, fake_speed):
    tasks = tasks_of(grid())
    finish(tasks[0], "pretrain", "probe")
    finish(tasks[1], "pretrain")
    tasks, measured = planned(grid())
    done, probe_left, all_left, _ = (costs.cost_left(task, measured) for task in tasks)
    assert done.total_s == 0
    assert probe_left.pretrain_s == 0 and probe_left.probe_s == all_left.probe_s
    assert probe_left.overhead_s < all_left.overhead_s / 1.9


def test_a_finished_grid_measures_nothing(folder, monkeypatch, capsys):
    measuring = [(speed, "measure"), *((timing, f"{kind}_seconds") for kind in ("probe", "start", "decode"))]
    for module, name in measuring:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("measured"))
    for task in tasks_of(grid()):
        finish(task, "pretrain", "probe")
    assert plan.main() == 0
    out = capsys.readouterr().out
    assert "4 cells, 4 done, 0 left" in out and "Nothing is left to run" in out


def test_equal_loads_are_measured_once(folder, fake_speed):
    change = {"when": {"backbone": "test_convnext"}, "pretrain": {"epochs": 9, "optimizer": {"lr": 0.1}}}
    planned(grid(overrides=[change]))
    assert len(fake_speed) == 1  # two lambdas, two seeds
    planned(grid(grid=axes(backbones=["test_vit", "test_convnext"]), overrides=[change]))
    assert len(fake_speed) == 3
    larger = {"when": {"backbone": "test_vit"}, "pretrain": {"batch_size": 128}}
    before = fake_speed[0]
    planned(grid(overrides=[larger]))
    assert fake_speed[-1] != before


@pytest.mark.parametrize("busy", [[True], [False, True]], ids=["before", "meanwhile"])
def test_on_a_busy_machine_one_thread_is_measured(folder, fake_speed, monkeypatch, capsys, busy):
    states, threads = iter(busy), []
    monkeypatch.setattr(timing, "crowded", lambda: next(states, True))
    monkeypatch.setattr(speed, "measure", lambda load, budget_s: threads.append(torch.get_num_threads()) or SPEED)
    before = torch.get_num_threads()
    write(grid())
    plan.main()
    assert threads[-1] == 1 and torch.get_num_threads() == before and len(threads) == len(busy)
    assert "Other programs keep the cores busy" in capsys.readouterr().out


def test_the_clock_of_one_thread_stops_while_it_waits():
    with timing.one_thread():
        assert timing.seconds(lambda _: time.sleep(0.2), 0, torch.device("cpu")) < 0.1


def test_probe_time_is_interpolated_between_measured_widths():
    points = [(64, 1.0), (1024, 5.0)]
    assert costs._between(points, 64) == 1.0 and costs._between(points, 544) == pytest.approx(3.0)


def test_what_a_person_must_fetch(folder):
    Path("data/by-hand/big").mkdir(parents=True)
    settings = grid(grid=axes(datasets=["digits", "big", "mine"]))
    entries = planning.read_pipeline(write(settings)).entries()
    downloads, by_hand = plan_text.needs(entries)
    assert downloads == []
    told = "\n".join(by_hand)
    for part in (*BY_HAND["what"].split(), BY_HAND["from"], BY_HAND["path"], "a.tar (missing)", "/somewhere/pictures"):
        assert part in told
    Path("data/by-hand/big/a.tar").touch()
    assert "a.tar (there)" in "\n".join(plan_text.needs(entries)[1])


def test_packed_sets_need_nothing(folder):
    pack_facts("cifar10", 1000, [30, 50])
    entries = planning.read_pipeline(write(grid(grid=axes(datasets=["cifar10"])))).entries()
    assert plan_text.needs(entries) == ([], [])


def test_disk_counts_weights_twice_for_the_cache(folder, fake_speed):
    _, measured = planned(grid())
    text = "\n".join(plan_text.totals(planning.read_pipeline(Path("params.yaml")), measured))
    assert f"weights {plan_text.size(4 * 2 * 1000 * 4)}" in text
    assert f"at most {plan_text.size(2 * 1797 * 64)} to come" in text


def test_the_printed_plan(folder, fake_speed, capsys):
    write(grid())
    assert plan.main("params.yaml") == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("digits ")]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1  # aligned
    assert "params.yaml: grid 'default', 4 cells, 0 done, 4 left" in out
    assert "downloads        none" in out and "by hand          nothing" in out


@pytest.mark.parametrize("argument", ["paper/one", "paper/one/dvc.yaml", "paper/one/params.yaml"])
def test_a_pipeline_is_found_by_folder_and_by_file(folder, argument):
    write(grid(), "paper/one/params.yaml")
    Path("paper/one/dvc.yaml").touch()
    (found,) = planning.params_files(argument)
    assert found == Path("paper/one/params.yaml")
    assert planning.read_pipeline(found).tasks[0].cell.folder.parts[:2] == ("runs", "one")


def test_a_folder_of_pipelines_gives_all_of_them(folder, fake_speed, capsys):
    write(grid(), "paper/one/params.yaml")
    write(grid(), "paper/two/params.yaml")
    assert plan.main("paper") == 0
    out = capsys.readouterr().out
    assert "grid 'one'" in out and "grid 'two'" in out
    assert len(fake_speed) == 1


@pytest.mark.parametrize("argument", ["nowhere", "nowhere/dvc.yaml", "."])
def test_a_path_without_pipeline_is_named(folder, argument):
    with pytest.raises(UserError, match="there is no pipeline at"):
        planning.params_files(argument)


def test_a_batch_larger_than_the_set_is_a_problem(folder, fake_speed, capsys):
    settings = grid()
    settings["pretrain"]["batch_size"] = 2048
    write(settings)
    assert plan.main() == 1
    assert "PROBLEM: pretrain.batch_size must be <= the 1438 training images of digits" in capsys.readouterr().out


def test_an_unknown_backbone_is_a_problem(folder, monkeypatch, capsys):
    monkeypatch.setattr(timing, "start_seconds", lambda: START_S)
    write(grid(grid=axes(backbones=["test_vitt"])))
    assert plan.main() == 1
    out = capsys.readouterr().out
    assert "cannot run here" in out and out.count("PROBLEM: unknown backbone 'test_vitt'") == 1
    assert "did you mean 'test_vit'" in out


def test_a_backbone_too_large_for_this_memory_is_not_built(monkeypatch):
    monkeypatch.setattr(speed, "_memory_bytes", lambda: 10**6)
    task = planning.Task(*_cell_settings("test_vit"), None, False, False)
    with pytest.raises(speed.SpeedError, match="GB to train"):
        speed.measure(task.load, 0.1)


def test_a_large_backbone_is_scaled_by_its_operations(monkeypatch):
    monkeypatch.setattr(speed, "LARGEST_MEASURED_PARAMS", 100_000)
    monkeypatch.setattr(speed, "STAND_IN", "test_convnext")
    monkeypatch.setattr(speed, "STAND_IN_KWARGS", {})
    monkeypatch.setattr(speed, "_measure", lambda load, *_: SPEED if load.backbone == "test_convnext" else None)
    monkeypatch.setattr(speed, "count_params", lambda name, arguments: 10**5 + (name == "test_vit"))
    task = planning.Task(*_cell_settings("test_vit"), None, False, False)
    settings = json.loads(task.load.settings)
    counts = {"test_vit": {32: 900, 16: 500}, "test_convnext": {32: 300, 16: 100}}
    monkeypatch.setattr(speed, "operations", lambda name, arguments, px: (counts[name][px], 64))
    found = speed.measure(task.load, 0.1)
    assert found.measured_batch == 0 and settings["views"]["num_local"] == 4
    assert found.step_s == pytest.approx(STEP_S * (2 * 900 + 4 * 500) / (2 * 300 + 4 * 100))
    assert found.embed_image_s == pytest.approx(EMBED_S * 3)


def test_operations_grow_with_the_picture_and_match_a_published_count():
    """timm's table of results gives 17.6 G multiply-adds for vit_base_patch16_224 without its classifier."""
    count, dim = speed.operations("vit_base_patch16_224", {"img_size": 224, "dynamic_img_size": True}, 224)
    assert dim == 768 and count / 2 == pytest.approx(17.6e9, rel=0.05)
    arguments = {"img_size": 224, "dynamic_img_size": True, **speed.STAND_IN_KWARGS}
    assert speed.operations(speed.STAND_IN, arguments, 98)[0] < count / 3  # 98 is no multiple of 16


def _cell_settings(backbone: str):
    settings = planning.Params.model_validate(grid(grid=axes(backbones=[backbone])))
    cell = planning.grid_cells(settings, "default")[0]
    return cell, *planning.resolve(settings, cell)


class Clock:
    """perf_counter that a fake piece of work advances by a fixed time and a time an image."""

    def __init__(self, monkeypatch, fixed_s: float, image_s: float) -> None:
        self.now, self.batches, self.fixed_s, self.image_s = 0.0, [], fixed_s, image_s
        monkeypatch.setattr(timing, "_clock", lambda: lambda: self.now)

    def work(self, batch: int) -> None:
        self.batches.append(batch)
        self.now += self.fixed_s + batch * self.image_s


def test_fast_work_is_timed_at_the_full_batch(monkeypatch):
    clock = Clock(monkeypatch, 0.01, 0.001)
    assert timing.seconds_a_call(clock.work, 128, 1.0, torch.device("cpu")) == (pytest.approx(0.138), 128)
    assert clock.now < 3.0


def test_slow_work_is_timed_once_at_the_smallest_batch(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 3.0)
    assert timing.seconds_a_call(clock.work, 512, 1.0, torch.device("cpu")) == (7.0, 2)
    assert clock.batches == [2]


@pytest.mark.parametrize(("seconds", "text"), [(41, "41 s"), (600, "10.0 min"), (7200, "2.0 h"), (864000, "10 days")])
def test_durations(seconds, text):
    assert plan_text.duration(seconds) == text


def snapshot(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


def processor_seconds() -> float:
    """Of the programs that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_a_real_measurement_predicts_a_real_pretraining(folder, monkeypatch):
    """In processor time of one thread, which other programs hardly change; the whole default grid: reports/LOG.md."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = grid(grid=axes(backbones=["test_convnext"], lambdas=[0.05], seeds=[0]))
    settings["pretrain"]["epochs"] = 10
    settings["pretrain"]["views"]["num_local"] = 0
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (task,) = tasks_of(settings)
    before = snapshot(folder)
    with timing.one_thread():
        measured = costs.measure([task], note=lambda line: None)
    plan_text.plan_text(planning.read_pipeline(Path("params.yaml")), measured)
    assert snapshot(folder) == before
    config = f"{task.cell.configs}/pretrain.json"
    used = [processor_seconds()]
    for program in (["download", "digits"], ["configure"], ["pretrain", config]):
        module, *arguments = program
        subprocess.run([sys.executable, "-m", f"stages.{module}", *arguments], check=True, capture_output=True)
        used.append(processor_seconds())
    truth = used[-1] - used[-2]
    estimate = costs.cost_left(task, measured).pretrain_s + measured.start_s
    assert truth / 2 < estimate < truth * 2, (estimate, truth)
