"""Small pipelines to plan, and measurements that take no time, which the tests of plans and of costs share."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import yaml

from pipeline.planning import costs, planning, speed, timing
from pipeline.settings.cells import merge
from pipeline.sources import packing
from pipeline.sources.images import Picture

TIMING = speed.Timing(train_s=2e-9, embed_s=1e-9, update_s=1e-8)
PROBE_TIME, START_S, DECODE_S = timing.ProbeTime(1.0, 2.0, 4.0), 7.0, 0.001
BY_HAND = {
    "what": "Some archive",
    "from": "https://example.org/register",
    "path": "data/by-hand/big",
    "files": ["a.tar"],
}
BASE = {
    "grid": {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.02, 0.1], "seeds": [0, 1]},
    "datasets": {
        "digits": {"source": "sklearn"},
        "cifar10": {"source": "torchvision", "dataset": "CIFAR10", "train": {"train": True}, "test": None},
        "big": {"source": "torchvision", "dataset": "ImageNet", "train": {}, "test": None, "by_hand": BY_HAND},
        "mine": {"source": "huggingface", "repo": "mine/pictures"},
    },
    "models": {"public": {"backbone": "test_vit.r160_in1k", "img_size": 64}},
    "pretrain": {
        "epochs": 3,
        "batch_size": 64,
        "views": {"num_global": 2, "num_local": 4, "global_px": 32, "local_px": 16},
        "schedule": {"warmup_epochs": 1},
    },
}


def settings(**change) -> dict:
    return merge(BASE, change)


def write(change: dict | None = None, path: str = "params.yaml") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(merge(BASE, change or {}), sort_keys=False))
    return Path(path)


def tasks_of(**change) -> list[planning.Task]:
    return planning.read_pipeline(write(change)).tasks


def planned(**change) -> tuple[list[planning.Task], costs.Measured]:
    pipeline = planning.read_pipeline(write(change))
    return pipeline.tasks, costs.measure([pipeline])


def finish(task: planning.Task, *stages: str) -> None:
    files = {"pretrain": "backbone.safetensors", "probe": "metrics.json"}
    for stage in stages:
        (task.cell.folder / stage).mkdir(parents=True)
        (task.cell.folder / stage / files[stage]).write_text("{}")


def pack(name: str, num_train: int, width_px: list[int]) -> None:
    """Pack coloured pictures of two classes, 40 px high, with these widths in turn."""

    def pictures(number: int):
        for index, width in enumerate(islice(cycle(width_px), number)):
            yield Picture(np.full((40, width, 3), (index % 256, 0, 9), np.uint8), index % 2, str(index))

    splits = {"train": pictures(num_train), "test": pictures(100)}
    packing.pack(Path("data") / name, name, {}, ["a", "b"], splits)


def fake_measurements(monkeypatch) -> list[speed.Load]:
    """Replace every measurement; the list tells which backbones were asked for."""
    asked = []
    monkeypatch.setattr(speed, "measure", lambda load, budget_s: asked.append(load) or TIMING)
    monkeypatch.setattr(timing, "crowded", lambda: False)
    monkeypatch.setattr(timing, "probe_seconds", lambda **_: PROBE_TIME)
    monkeypatch.setattr(timing, "start_seconds", lambda: START_S)
    monkeypatch.setattr(timing, "decode_seconds", lambda files, canvas: DECODE_S)
    monkeypatch.setattr(costs, "num_cpus", lambda: 2)
    return asked
