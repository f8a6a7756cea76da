"""Claims about what cells cost:

1. The cost is the sum of its parts, measured or counted: steps, views, probes, fine-tuning, programs; nothing for what
   is done.
2. Equal loads are measured once; what is too large, or one of many, is scaled by its operations from a stand-in of its
   family; on a busy machine one thread is measured.
3. Operations agree with a published count and are counted without memory.
4. Fast work is timed at the full batch, slow work once; probes are interpolated between measured widths.
5. A real measurement predicts a real run.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from plan_files import DECODE_S, PROBE_TIME, START_S, TIMING, fake_measurements, finish, planned, tasks_of, write

from pipeline.planning import costs, speed, timing
from pipeline.settings.schema import Pretrain
from stages import plan

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake_speed(monkeypatch):
    return fake_measurements(monkeypatch)


def load(backbone: str, **views) -> speed.Load:
    pretrain = Pretrain(epochs=20, batch_size=512).model_dump(mode="json")
    pretrain["views"] |= {"num_global": 2, "num_local": 0, **views}
    return speed.Load.of(backbone, pretrain, (3, 224, 224))


# 1. Sums


def test_cost_is_the_sum_of_its_parts(fake_speed):
    tasks, measured = planned()
    task, found = tasks[0], measured.speeds[tasks[0].load].sketch
    an_image = 2 * found.operations[32] + 4 * found.operations[16]
    program_s, decoding_s = START_S + costs.STAGE_S, DECODE_S / 2
    num_train, steps = task.train_set.num_train, 3 * (task.train_set.num_train // 64)
    steps_s = steps * (64 * an_image * TIMING.train_s + TIMING.update_s * found.num_params)
    assert costs.training_seconds(task, measured) == pytest.approx(program_s + num_train * decoding_s + steps_s)
    embedding_s = 1797 * found.operations[32] * TIMING.embed_s
    probing_s = 1797 * decoding_s + 2 * embedding_s + 3 * sum(PROBE_TIME)
    assert costs.probing_seconds(task, measured) == pytest.approx(program_s + probing_s)


def test_averaged_weights_cost_a_forward_pass_more(fake_speed):
    (plain, *_), measured = planned()
    (averaged, *_), _ = planned(pretrain={"swa": {"enabled": True}})
    found = measured.speeds[plain.load].sketch
    more = costs.training_seconds(averaged, measured) - costs.training_seconds(plain, measured)
    assert more == pytest.approx(plain.num_steps * 64 * 2 / 3 * found.operations[32] * TIMING.train_s)


def test_fine_tuning_counts_every_run(fake_speed):
    tuning = {"epochs": 2, "min_steps": 30, "batch_size": 100, "learning_rates": [1e-4, 1e-3], "num_draws": 3}
    probe = {"mode": "finetune", "baselines": [], "few_shot": {"shots": [5]}, "finetune": tuning}
    (task, *_), measured = planned(probe=probe)
    found = measured.speeds[task.load].sketch
    # 1438 images of which 287 are held out, twice: 11 steps an epoch, so 3 epochs; all: 14 and 3; 5 a class: 1 and 30.
    steps, images = 2 * 33 + 42 + 3 * 30, 100 * (2 * 33 + 42) + 50 * 3 * 30
    scored = 2 * 287 + 4 * 359 + 1797  # and the embeddings of both splits for k-NN
    expected_s = images * found.operations[32] * TIMING.train_s + steps * TIMING.update_s * found.num_params
    expected_s += scored * found.operations[32] * TIMING.embed_s + PROBE_TIME.knn_s
    expected_s += 1797 * DECODE_S / 2 + START_S + costs.STAGE_S
    assert costs.probing_seconds(task, measured) == pytest.approx(expected_s)


def test_what_is_done_costs_nothing(fake_speed):
    tasks = tasks_of()
    finish(tasks[0], "pretrain", "probe")
    finish(tasks[1], "pretrain")
    tasks, measured = planned()
    both = [[cost(task, measured) for cost in (costs.training_seconds, costs.probing_seconds)] for task in tasks]
    assert both[0] == [0, 0] and both[1][0] == 0 and both[1][1] == both[2][1] > 0 and both[2][0] > 0


# 2. What is measured


def test_equal_loads_are_measured_once(fake_speed):
    change = {"when": {"backbone": "test_resnet"}, "pretrain": {"epochs": 9, "optimizer": {"lr": 0.1}}}
    planned(overrides=[change])
    assert len(fake_speed) == 1  # two lambdas, two seeds
    planned(grid={"backbones": ["test_vit", "test_resnet"]}, overrides=[change])
    assert len(fake_speed) == 3
    more_views = {"when": {"backbone": "test_vit"}, "pretrain": {"batch_size": 128, "views": {"num_global": 3}}}
    planned(overrides=[more_views])
    assert fake_speed[-1] == fake_speed[0]
    smaller = {"when": {"backbone": "test_vit"}, "pretrain": {"views": {"global_px": 48}}}
    planned(overrides=[smaller])
    assert fake_speed[-1] != fake_speed[0]


def test_a_zoo_is_timed_by_families(fake_speed, monkeypatch):
    views = {"num_global": 1, "num_local": 0, "global_px": 224}
    names = ["resnet18", "resnet26", "levit_128", "test_vit"]
    change = {"grid": {"backbones": names, "lambdas": [0.1], "seeds": [0]}, "pretrain": {"views": views}}
    monkeypatch.setattr(costs, "MOST_TIMED", 3)
    tasks, measured = planned(**change)
    assert [timed.backbone for timed in fake_speed] == ["resnet26d", "levit_192", "test_vit"]
    assert [measured.speeds[task.load].timed for task in tasks] == ["resnet26d", "resnet26d", "levit_192", "test_vit"]
    first, second = (measured.speeds[task.load] for task in tasks[:2])
    ratio = second.sketch.operations[224] / first.sketch.operations[224]
    assert ratio > 1.2 and second.train_s({224: 1.0}) / first.train_s({224: 1.0}) == pytest.approx(ratio)


def test_a_large_backbone_has_a_stand_in():
    assert speed.timed_load(load("vit_large_patch14_224")).backbone == "vit_small_patch16_224"
    assert speed.timed_load(load("resnet50")) == load("resnet50")


def test_a_backbone_too_large_for_this_memory_is_named(monkeypatch):
    monkeypatch.setattr(speed, "MEMORY_BYTES", 10**6)
    with pytest.raises(speed.SpeedError, match="GB to train"):
        speed.timed_load(load("resnet10t"))


@pytest.mark.parametrize("busy", [[True], [False, True]], ids=["before", "meanwhile"])
def test_on_a_busy_machine_one_thread_is_measured(fake_speed, monkeypatch, capsys, busy):
    states, threads = iter(busy), []
    monkeypatch.setattr(timing, "crowded", lambda: next(states, True))
    monkeypatch.setattr(speed, "measure", lambda load, budget_s: threads.append(torch.get_num_threads()) or TIMING)
    before = torch.get_num_threads()
    write()
    plan.main()
    assert threads[-1] == 1 and torch.get_num_threads() == before and len(threads) == len(busy)
    assert "Other programs keep the cores busy" in capsys.readouterr().out


# 3. Operations


def test_operations_match_a_published_count():
    """timm's table of results gives 4.6 G multiply-adds for vit_small_patch16_224 without its classifier."""
    found = speed.sketch(load("vit_small_patch16_224", num_local=1, local_px=96))
    assert found.embed_dim == 384 and found.operations[224] / 2 == pytest.approx(4.6e9, rel=0.05)
    assert found.operations[96] < found.operations[224] / 4


# 4. The clock


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
    assert timing.seconds_a_call(clock.work, 128, 1.0, CPU) == (pytest.approx(0.138), 128)
    assert clock.now < 3.0


def test_slow_work_is_timed_once_at_the_smallest_batch(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 3.0)
    assert timing.seconds_a_call(clock.work, 512, 1.0, CPU) == (7.0, 2)
    assert clock.batches == [2]


def test_the_clock_of_one_thread_stops_while_it_waits():
    with timing.one_thread():
        assert timing.seconds(lambda _: time.sleep(0.2), 0, CPU) < 0.1


def test_probe_time_is_interpolated_between_measured_widths():
    points = [(64, timing.ProbeTime(1.0, 0.0, 2.0)), (1024, timing.ProbeTime(5.0, 0.0, 2.0))]
    assert costs._between(points, 64) == (1.0, 0.0, 2.0) and costs._between(points, 544) == (3.0, 0.0, 2.0)


def test_probe_time_grows_with_the_images():
    settings = costs.Probe().model_dump(include={"linear", "knn", "few_shot"})
    how = {"num_classes": 10, "dim": 32, "device": "cpu", "settings": settings}
    small, large = (timing.probe_seconds(num_train=num, num_test=1000, **how) for num in (20_000, 200_000))
    assert 4 < large.linear_s / small.linear_s < 25 and 4 < large.knn_s / small.knn_s < 25


# 5. The truth


def processor_seconds() -> float:
    """Of the programs that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_a_real_measurement_predicts_a_real_pretraining(folder, monkeypatch):
    """In processor time of one thread, which other programs hardly change; the whole default grid: reports/LOG.md."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    grid = {"backbones": ["test_convnext"], "lambdas": [0.05], "seeds": [0]}
    with timing.one_thread():
        (task,), measured = planned(grid=grid, pretrain={"epochs": 10, "views": {"num_local": 0}})
    config = f"{task.cell.configs}/pretrain.json"
    used = [processor_seconds()]
    for program in (["download", "digits"], ["configure"], ["pretrain", config]):
        module, *arguments = program
        subprocess.run([sys.executable, "-m", f"stages.{module}", *arguments], check=True, capture_output=True)
        used.append(processor_seconds())
    truth_s = used[-1] - used[-2]
    estimate_s = costs.training_seconds(task, measured) - costs.STAGE_S
    assert truth_s / 2 < estimate_s < truth_s * 2, (estimate_s, truth_s)
