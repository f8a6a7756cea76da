"""Pictures made from noise, and data sets packed from them."""

from __future__ import annotations

import io

import numpy as np

from pipeline.sources.images import Picture
from pipeline.sources.packing import pack

CLASSES = ["cat", "dög"]


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_splits(contents):
    return {
        split: [Picture(content, i % 2, f"{split}{i}") for i, content in enumerate(contents)]
        for split in ("train", "test")
    }


def pack_noise(folder, num, height, width, classes="ab"):
    """Pack the same grey noise as both splits, classes in turn."""
    images = noise(0, num, height, width)
    pictures = [Picture(image, i % len(classes), str(i)) for i, image in enumerate(images)]
    return pack(folder, folder.name, {"source": "folder"}, list(classes), {"train": pictures, "test": pictures})


def pack_all(tmp_path, contents, name="set"):
    return pack(tmp_path / name, name, {"source": "folder"}, CLASSES, two_splits(contents))
