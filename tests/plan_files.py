"""Small pipelines to plan, and measurements that take no time, which the tests of plans share."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import yaml

from pipeline.planning import costs, step_time
from pipeline.planning.inventory import Task, read_pipeline
from pipeline.planning.step_time import Measured, Speed
from pipeline.settings.cells import merge
from pipeline.sources import packing
from pipeline.sources.images import Picture

RATES = {"train_s": 2e-9, "embed_s": 1e-9, "update_s": 1e-8}
FIT_S, START_S = 0.001, 7.0
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


def write(change: dict | None = None, path: str = "params.yaml") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(merge(BASE, change or {}), sort_keys=False))
    return Path(path)


def tasks_of(**change) -> list[Task]:
    return read_pipeline(write(change)).tasks


def planned(**change) -> tuple[list[Task], Measured]:
    pipeline = read_pipeline(write(change))
    return pipeline.tasks, step_time.measure([pipeline])


def finish(task: Task, *stages: str) -> None:
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


def fake_measurements(monkeypatch) -> list[str]:
    """Replace every measurement; the list tells which backbones were timed."""
    timed = []

    def time_shape(task: Task, found: Speed, budget_s: float) -> Speed:
        timed.append(task.backbone)
        return found._replace(**RATES)

    monkeypatch.setattr(step_time, "time_shape", time_shape)
    monkeypatch.setattr(step_time, "fit_seconds", lambda *_: FIT_S)
    monkeypatch.setattr(step_time, "start_seconds", lambda: START_S)
    monkeypatch.setattr(costs, "num_cpus", lambda: 2)
    return timed
