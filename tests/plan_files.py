"""Small pipelines to plan, and measurements that take no time, which the tests of plans and of costs share."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from pipeline import costs, planning, speed, timing
from pipeline.cells import merge

TIMING = speed.Timing(train_s=2e-9, embed_s=1e-9, update_s=1e-8, batch=64)
PROBE_TIME, START_S = timing.ProbeTime(1.0, 2.0, 4.0), 7.0
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
        "mine": {"source": "folder", "path": "/somewhere/pictures"},
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
    tasks = tasks_of(**change)
    return tasks, costs.measure(tasks, note=lambda line: None)


def finish(task: planning.Task, *stages: str) -> None:
    files = {"pretrain": "backbone.safetensors", "probe": "metrics.json"}
    for stage in stages:
        (task.cell.folder / stage).mkdir(parents=True)
        (task.cell.folder / stage / files[stage]).write_text("{}")


def pack(name: str, num_train: int, width_px: list[int]) -> None:
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


def fake_measurements(monkeypatch) -> list[speed.Load]:
    """Replace every measurement; the list tells which backbones were asked for."""
    asked = []
    monkeypatch.setattr(speed, "measure", lambda load, budget_s: asked.append(load) or TIMING)
    monkeypatch.setattr(timing, "crowded", lambda: False)
    monkeypatch.setattr(timing, "probe_seconds", lambda **_: PROBE_TIME)
    monkeypatch.setattr(timing, "start_seconds", lambda: START_S)
    return asked
