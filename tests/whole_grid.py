"""A grid run from configure to page in this process, by the programs that dvc.yaml names, in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from csv_tables import csv_rows
from PIL import Image

from pipeline.settings.cells import merge
from stages import (
    check,
    compare,
    configure,
    density,
    diagnose,
    download,
    foreign,
    page,
    pictures,
    pretrain,
    probe,
    score,
)

ROOT = Path(__file__).parents[1]
TINY = {
    "pretrain": {
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        "views": {"global_px": 32, "num_local": 0},
        "projector": {"hidden_dims": [32], "proj_dim": 16},
        "sigreg": {"num_slices": 16},
        "schedule": {"warmup_epochs": 0.5},
    },
    "probe": {
        "linear": {"learning_rates": [0.01, 0.1], "epochs": 2},
        "few_shot": {"shots": [1], "num_draws": 2},
        "knn": {"k": 5},
    },
    "density": {"sets": ["digits"], "num_images": 10},
    "diagnose": {"num_draws": 100},
}


def written(change: dict, *, without: tuple[str, ...] = ()) -> dict:
    """Write params.yaml: the committed one with `change`, tiny, and without some of its sections."""
    committed = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    committed["grid"] |= {"backbones": ["test_byobnet"], "lambdas": [0.05]}
    params = {name: value for name, value in merge(merge(committed, TINY), change).items() if name not in without}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return params


def trained(change: dict, *, without: tuple[str, ...] = ()) -> list[str]:
    """Run a grid until every cell is probed; return the names of its data sets."""
    grid = written(change, without=without)["grid"]
    check.main()
    configure.main()
    for name in grid["datasets"]:
        download.main(name)
    for config in sorted(Path("runs/default/configs").glob("*/pretrain.json")):
        pretrain.main(str(config))
        probe.main(str(config.with_name("probe.json")))
    return grid["datasets"]


def shown(datasets: list[str]) -> str:
    """Make tables, analyses and page of a probed grid, each of which must succeed; return the page."""
    assert compare.main() == 0
    diagnose.main()
    foreign.main()
    for name in datasets:
        for scored in (*datasets, "foreign"):
            score.main(name, scored)
    density.main()
    for name in datasets:
        pictures.main(name)
    page.main()
    return Path("reports/index.html").read_text(encoding="utf-8")


def rows() -> list[dict[str, str]]:
    """Read comparison.csv."""
    return csv_rows("reports/comparison.csv")


def images(counts: list[int], px: int = 16, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make images (N, px, px, 3) uint8 and labels (N,), counts[c] of class c, which shows in one channel."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.random.default_rng(seed).integers(0, 80, (len(labels), px, px, 3))
    pixels[np.arange(len(labels)), :, :, labels % 3] += 120
    return pixels.astype(np.uint8), labels


def arrays(path: str, counts: list[int], px: int = 16) -> dict:
    """Write an npz and return its entry in the catalogue."""
    pixels, labels = images(counts, px)
    np.savez(path, images=pixels, labels=labels)
    return {"source": "arrays", "path": path, "images": "images", "labels": "labels"}


def folder(path: str, counts: list[int], px: int = 16) -> dict:
    """Write pictures, a folder for each class, and return the entry in the catalogue."""
    for index, (image, label) in enumerate(zip(*images(counts, px), strict=True)):
        (Path(path) / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(Path(path) / f"class {label}" / f"{index}.png")
    return {"source": "folder", "path": path}
