"""Parameter files that must be refused by `python -m stages.configure`: a change of a sound one, and what is said."""

from __future__ import annotations

from typing import Any

GRID = {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.05], "seeds": [0]}
SOUND = {
    "grid": GRID,
    "datasets": {"digits": {"source": "sklearn"}, "dtd": {"source": "bundled"}},
    "pretrain": {
        "epochs": 2,
        "batch_size": 64,
        "device": "cpu",
        "schedule": {"warmup_epochs": 0.5},
        "views": {"num_local": 0, "global_px": 32},
        "backbone": {"patch_size": 8},
        "health": {"num_images": 0},
        "loader": {"num_workers": 0},
    },
}
SHA = "a" * 64


def nested(path: str, value: Any) -> dict:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def set_of(name: str = "new", **fields: Any) -> dict:
    return {"datasets": {name: fields}}


def axis_of(name: str, **axis: Any) -> dict:
    return {"grid": {"axes": {name: axis}}}


# What is wrong: (change of SOUND, words that the message must have: path, rule and value, remedy).
CHANGES: dict[str, tuple[dict, tuple[str, ...]]] = {
    "section misspelt": ({"pretrian": {}}, ("unknown key pretrian", "did you mean 'pretrain'?")),
    "key of a probe misspelt": (nested("probe.few_shot.shot", [1]), ("probe.few_shot.shot", "did you mean 'shots'?")),
    "number as text": (nested("pretrain.epochs", "5"), ("pretrain.epochs must be a valid integer", "got '5'")),
    "range upside down": (
        nested("pretrain.views.ratio", [2, 1]),
        ("pretrain.views.ratio", "low <= high", "[2.0, 1.0]"),
    ),
    "warm-up of the whole run": (
        nested("pretrain.schedule.warmup_epochs", 9),
        ("warmup_epochs must be < epochs, got 9",),
    ),
    "no data sets": (nested("grid.datasets", []), ("grid.datasets must have at least 1 item",)),
    "no backbones": (nested("grid.backbones", []), ("grid.backbones must have at least one name", "add one")),
    "a grid of 12,000 cells": (
        {"grid": {"seeds": list(range(6000)), "lambdas": [0.1, 0.2]}},
        (
            "at most max_cells = 10000",
            "1 datasets x 1 backbones x 2 lambdas x 6000 seeds = 12000",
            "raise grid.max_cells",
        ),
    ),
    "a lambda spelled twice": (nested("grid.lambdas", [1, 1.0]), ("grid.lambdas must not repeat", "1, 1.0")),
    "an axis at the root": (
        axis_of("t", sets=["pretrain.sigreg.t_max"], values=[1]),
        ("grid.axes", "not for the root"),
    ),
    "an axis without effect": (axis_of("idle", values=[1]), ("grid.axes.idle changes nothing", "give it `sets`")),
    "unknown data set": (
        nested("grid.datasets", ["digit"]),
        ("'digit' in grid.datasets", "mean 'digits'", "datasets:"),
    ),
    "unknown target": (nested("grid.targets", ["dtt"]), ("'dtt' in grid.targets", "did you mean 'dtd'?")),
    "unknown backbone": (nested("grid.backbones", ["test_vitt"]), ("'test_vitt' in grid.backbones", "'test_vit'")),
    "unknown statistic": (
        nested("pretrain.sigreg.statistic", "epps"),
        ("unknown statistic 'epps' in pretrain.sigreg.statistic", "known: ", "epps_pulley"),
    ),
    "unknown source": (set_of(source="foldr"), ("datasets.new.source", "'foldr'", "did you mean 'folder'?")),
    "override of nothing": (
        {"overrides": [{"when": {"dataste": "x"}}]},
        ("unknown key overrides.0.when.dataste", "did you mean 'dataset'?"),
    ),
    "overrides that contradict": (
        {"overrides": [{"when": {}, "pretrain": {"epochs": 1, "schedule": {"warmup_epochs": 4}}}]},
        ("overrides.0.pretrain", "warmup_epochs must be < epochs, got 4 of 1"),
    ),
    "unknown argument of timm": (
        nested("pretrain.backbone.kwargs", {"depht": 3}),
        ("'test_vit'", "depht", "pretrain.back"),
    ),
    # security
    "a data set that is a command": (
        set_of("x; rm -rf ~", source="sklearn"),
        ("'x; rm -rf ~'", "letters, digits and '_'"),
    ),
    "a backbone that is a command": (
        nested("grid.backbones", ["x; rm -rf ~"]),
        ("grid.backbones.0", "'x; rm -rf ~'", "rename"),
    ),
    "a value that is a command": (axis_of("t", values=["$(id)"]), ("grid.axes.t.values.0", "'$(id)'", "rename it")),
    "shares from outside": ({"shares": ["../x"]}, ("shares.0", "'../x'", "rename it")),
    "an address without checksum": (
        set_of(source="folder", url="https://x/y.zip"),
        ("datasets.new", "sha256", "unverified"),
    ),
    "a token in an address": (
        set_of(source="folder", url="https://x/y.zip?access_token=s3cret", sha256=SHA),
        ("datasets.new.url must not hold a secret", "'access_token'", "give its path"),
    ),
    "test images that are trained on": (
        set_of(source="torchvision", dataset="CIFAR10", train={"train": True}, test={"train": True}),
        ("datasets.new must not train and test on the same images", "or null"),
    ),
}

# What is wrong: (content of params.yaml, words)
TEXTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "unclosed bracket": (b"grid: {seeds: [1\n", ("not YAML in line",)),
    "a key twice": (b"grid: 1\ngrid: 2\n", ("not YAML in line 2", 'duplicate key "grid"')),
    "no text": (b"\xff\xfe\x00", ("not readable as YAML",)),
    "an object of Python": (b"a: !!python/object/apply:os.system [id]\n", ("not YAML in line 1",)),
}
