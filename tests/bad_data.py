"""Data sets that `python -m stages.download` must refuse: pictures, folders, arrays, parquet, torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bad_place import Attempt, Place, bad
from packed_pictures import encode
from PIL import Image
from source_helpers import png

from stages import download

# pictures


def folders(place: Place, content: bytes, name: str = "3.png", **fields: Any) -> Attempt:
    """Make a data set of two classes, one picture of which has this content."""
    for label in "ab":
        for index in range(6):
            path = Path("pictures", label, f"{index}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(index + 10 * (label == "b"), 6, 5, 3))
    Path("pictures/b", name).write_bytes(content)
    place.set_of(source="folder", path="pictures", **fields)
    return download, "new"


COLOUR = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)

BROKEN = {
    "a truncated PNG": (png(0, 30, 20, 3)[:400], "truncated"),
    "zero bytes": (b"", "zero bytes"),
    "an error page named .png": (b"<!doctype html><title>404</title>", "cannot identify image"),
    "32 bits a pixel": (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "no known white"),
}
for _name, (_content, _reason) in BROKEN.items():
    bad(f"picture: {_name}", "'new'", "b/3.png", _reason, "repair it or take it out")(
        lambda place, content=_content: folders(place, content)
    )


@bad("folder: nothing there", "datasets.new: path", "pictures", "correct it in params.yaml")
def _(place):
    place.set_of(source="folder", path="pictures")
    return download, "new"


@bad("folder: a class without pictures", "datasets.new", "pictures/c has no picture", "c/1.heic", "or remove it")
def _(place):
    attempt = folders(place, png(0, 4, 4))
    Path("pictures/c").mkdir()
    Path("pictures/c/1.heic").touch()
    return attempt


@bad("folder: splits without one to train on", "holds splits (test, val)", "set train to one of them")
def _(place):
    attempt = folders(place, png(0, 4, 4))
    Path("pictures/a").rename("pictures/val")
    Path("pictures/b").rename("pictures/test")
    return attempt


@bad("download: unknown name", "unknown data set 'nwe'", "did you mean 'new'?", "add it under datasets:")
def _(place):
    folders(place, png(0, 4, 4))
    return download, "nwe"


# arrays


def arrays(place: Place, fields: dict | None = None, **changed: Any) -> Attempt:
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 5), dtype=np.uint8)
    np.savez("a.npz", **{"x_train": images, "y_train": np.arange(12) % 3, **changed})
    place.set_of(source="arrays", path="a.npz", **fields or {})
    return download, "new"


TEST = {"test_images": "xt", "test_labels": "yt"}
XT = np.zeros((4, 5, 5), np.uint8)
WRONG: dict[str, tuple[dict, dict, tuple[str, ...]]] = {
    "unknown key": ({"images": "x_trian"}, {}, ("unknown key 'x_trian'", "did you mean 'x_train'?")),
    "labels beyond the names": ({"classes": ["p", "q"]}, {}, ("label 2 is not one of the 2 classes 0..1",)),
    "a class missing from test": (
        TEST,
        {"xt": XT, "yt": np.array([0, 1, 0, 1])},
        ("split 'test'", "1 of 3 classes: 2"),
    ),
    "numbers and names": (
        TEST,
        {"xt": XT, "yt": np.array(list("abca"))},
        ("numbers in one split and names", "one kind"),
    ),
    "no pictures": (
        {},
        {"x_train": np.zeros((0, 5, 5)), "y_train": np.zeros(0, int)},
        ("'x_train' must be", "(0, 5, 5)"),
    ),
    "no shape of pictures": ({}, {"x_train": np.zeros((12, 25))}, ("'x_train' must be (N, H, W)", "(12, 25)")),
}
for _name, (_fields, _changed, _words) in WRONG.items():
    bad(f"arrays: {_name}", "datasets.new", *_words)(
        lambda place, fields=_fields, changed=_changed: arrays(place, fields, **changed)
    )


@bad("arrays: a wrong checksum", "datasets.new: sha256", "0000", "restore the file or correct params.yaml")
def _(place):
    return arrays(place, {"sha256": "0" * 64})


@bad("torchvision: unknown argument", "datasets.new: train", "'trian'", "did you mean 'train'?")
def _(place):
    place.set_of(source="torchvision", dataset="CIFAR10", train={"trian": True}, test=None)
    return download, "new"


@bad("torchvision: files to be fetched by hand", "must be fetched by hand", "https://there", "missing there: x.tar")
def _(place):
    by_hand = {"what": "ImageNet", "from": "https://there", "path": "here", "files": ["x.tar"]}
    place.set_of(source="torchvision", dataset="ImageNet", train={}, test=None, by_hand=by_hand)
    return download, "new"
