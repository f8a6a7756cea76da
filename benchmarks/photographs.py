"""Make a folder of photographs of unequal sizes, a class a folder: `python -m benchmarks.photographs FOLDER [COUNT]`.

They are cut out of the two photographs inside scikit-learn, 640 x 427 px (CC BY 2.0), and resized to sides of 200 to
700 px: data of a user's own, to try the whole graph with. The same count gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

NUM_CLASSES, SIDES_PX, QUALITY = 10, (200, 700), 90


def main(folder: str, count: str = "5000") -> None:
    strips = [strip for pixels in load_sample_images().images for strip in np.array_split(pixels, NUM_CLASSES // 2, 1)]
    random = np.random.default_rng(0)
    for index in range(int(count)):
        strip = strips[index % NUM_CLASSES]
        height, width = (random.uniform(0.3, 1, 2) * strip.shape[:2]).astype(int)
        top, left = (
            random.integers(0, whole - part + 1) for whole, part in zip(strip.shape, (height, width), strict=False)
        )
        photograph = Image.fromarray(strip[top : top + height, left : left + width])
        path = Path(folder) / f"class {index % NUM_CLASSES}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize(random.integers(*SIDES_PX, 2, endpoint=True)).save(path, quality=QUALITY)
    print(f"{count} photographs in {NUM_CLASSES} classes: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
