"""Machines and cells that must be refused before any work: files of settings, disks, rights, memory, too few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_place import Attempt, Place, bad, pack_noise
from bad_settings import CHANGES, TEXTS

from pipeline.settings.cells import merge
from stages import configure, download, pretrain

CELL = Path("runs/default/configs/digits--test_vit--lambda0.05--seed0")


def enter_settings() -> None:
    for name, (change, words) in CHANGES.items():
        bad(f"settings: {name}", "params.yaml has", *words)(lambda place, c=change: (place.params(c), configure)[1:])
    for name, (content, words) in TEXTS.items():
        bad(f"file: {name}", "params.yaml", *words)(
            lambda _, c=content: (Path("params.yaml").write_bytes(c), configure)[1:]
        )


enter_settings()


@bad("file: none", "params.yaml", "does not exist", "repository root")
def _(place):
    return (configure,)


@bad("a grid whose folder is a command", "'x; rm -rf ~'", "letters, digits", "rename it")
def _(place):
    Path("x; rm -rf ~").mkdir()
    place.params()
    Path("params.yaml").rename("x; rm -rf ~/params.yaml")
    return configure, "x; rm -rf ~/params.yaml"


# the machine


@bad("disk: full while a data set is packed", "'new'", "the disk is full", "free some space")
def _(place):
    noise = np.random.default_rng(0).integers(0, 256, (12, 300, 400), dtype=np.uint8)
    np.savez(place.root / "a.npz", x_train=noise, y_train=np.arange(12) % 3)
    place.monkeypatch.chdir(place.small_disk())
    place.set_of(source="arrays", path=str(place.root / "a.npz"))
    return download, "new"


@bad("disk: too small for a download", "3.0 MB are to come", "MB left", "free some space")
def _(place):
    server = place.serve()
    server.files["/x.npz"] = bytes(3_000_000)
    place.monkeypatch.chdir(place.small_disk())
    place.set_of(source="arrays", url=f"{server.url}/x.npz", sha256="0" * 64)
    return download, "new"


@bad("disk: full while settings are written", "cannot write", "No space left", "free some space", "is kept")
def _(place):
    place.monkeypatch.chdir(place.small_disk())
    place.params()
    with Path("ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(bytes(4096)):
            pass
    return (configure,)


def out_of_memory(error: Exception) -> Callable[[Place], Attempt]:
    def make(place: Place) -> Attempt:
        def fail(*_: object, **__: object) -> None:
            raise error

        place.configured({"pretrain": {"batch_size": 8}})
        place.monkeypatch.setattr(pretrain.loop, "pretrain", fail)
        return pretrain, str(CELL / "pretrain.json")

    return make


MEMORY = {
    "of the GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "that workers share": RuntimeError("DataLoader worker is killed: Bus error, out of shared memory"),
}
for _name, _error in MEMORY.items():
    bad(
        f"out of memory: {_name}",
        "out of memory",
        "pretrain.batch_size",
        "pretrain.views",
        "grid.backbones",
        "bfloat16",
    )(out_of_memory(_error))


@bad("a GPU that is not there", "pretrain.device is 'cuda'", "no CUDA device is visible", "set it to 'auto' or 'cpu'")
def _(place):
    place.monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place.configured({"pretrain": {"device": "cuda", "batch_size": 8}})
    return pretrain, str(CELL / "pretrain.json")


# settings that the images do not allow


def refused_before_training(change: dict, **packed: Any) -> Callable[[Place], Attempt]:
    def make(place: Place) -> Attempt:
        place.configured(merge({"pretrain": {"batch_size": 8}, "probe": {"knn": {"k": 3}}}, change))
        pack_noise(Path("data/digits"), **packed)
        return pretrain, str(CELL / "pretrain.json")

    return make


UNFIT = {
    "fewer images than a batch": (
        {"pretrain": {"batch_size": 41}},
        {},
        ("pretrain.batch_size must be <= the 40 training images of 'digits', got 41", "lower it"),
    ),
    "fewer images than shots": (
        {"probe": {"few_shot": {"shots": [1, 11]}}},
        {},
        ("probe.few_shot.shots must be <= the 10 training images of the largest class", "got 11", "lower it"),
    ),
    "fewer images than neighbours": (
        {"probe": {"knn": {"k": 41}}},
        {},
        ("probe.knn.k must be <= the 40 training images of 'digits', got 41", "lower it"),
    ),
    "nothing to hold out": (
        {},
        {"per_class": (10, 1, 10)},
        ("probe.holdout_frac", "class 'class 1' of 'digits' has one training image", "add images or remove the class"),
    ),
}
for _name, (_change, _packed, _words) in UNFIT.items():
    bad(f"images: {_name}", "cell digits--test_vit--lambda0.05--seed0", *_words)(
        refused_before_training(_change, **_packed)
    )


@bad("images: not downloaded", "data set 'digits'", "data/digits/meta.json", "dvc repro --force download@digits")
def _(place):
    place.params()
    assert place.run(configure).status == 0
    return pretrain, str(CELL / "pretrain.json")


@bad("a cell that was not configured", "runs/default/configs/none/pretrain.json", "make it with", "dvc")
def _(place):
    return pretrain, "runs/default/configs/none/pretrain.json"
