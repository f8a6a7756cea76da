"""A data set, scores and picks that the tests of typicality share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from pipeline.density.encoders import scores_path
from pipeline.density.methods import METHODS, scores_text
from pipeline.runtime.files import write_json, write_text
from pipeline.schema.resolved_analyses import AnalysisExecution, ScoreRun, configs_folder
from pipeline.settings.params import load_params
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack

PARAMS = {
    "grid": {"datasets": ["home"], "backbones": ["test_vit"], "lambdas": [0.05], "seeds": [0]},
    "datasets": {name: {"source": "bundled"} for name in ("home", "abroad", "far")},
    "pretrain": {"epochs": 20, "batch_size": 64},
    "density": {"sets": ["home", "abroad"], "num_images": 12, "num_sketches": 4, "num_shown": 2, "k": 3},
}
CLASSES = ["a & b", "c"]


def write_params(change: dict | None = None, path: str = "params.yaml") -> str:
    sections = {name: {**section, **(change or {}).get(name, {})} for name, section in PARAMS.items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump({**(change or {}), **sections}), encoding="utf-8")
    params = load_params(path)
    write_json(configs_folder(path) / "score.json", ScoreRun.of(params, path).result_key())
    write_json(configs_folder(path) / "execution.json", AnalysisExecution.of(params).model_dump())
    return path


def settings() -> ScoreRun:
    return ScoreRun.of_grid("params.yaml", "score")


def write_set(name: str, *, low: int = 0, high: int = 256, num: int = 20) -> None:
    """Pack noise between two grey levels, 2 * num images in each split, classes in turn."""
    noise = np.random.default_rng(low).integers(low, high, (2, 2 * num, 12, 12), dtype=np.uint8)
    splits = {
        split: [Picture(image, i % 2, str(i)) for i, image in enumerate(images)]
        for split, images in zip(("train", "test"), noise, strict=True)
    }
    folder = Path("data") / name if name in PARAMS["grid"]["datasets"] else Path("data/foreign") / name
    pack(folder, name, {"source": "bundled"}, CLASSES, splits)


def write_pick(name: str, weights: Path, sha256: str, seed: int = 0) -> None:
    pick = {
        "dataset": name,
        "criterion": "loss / λ^0.4",
        "cell": f"{name}--test_vit--lambda0.05--seed0",
        "backbone": "test_vit",
    }
    pick |= {"lambda": 0.05, "seed": seed, "weights": str(weights), "sha256": sha256, "by_backbone": {}}
    pick["shown"] = settings().shown.model_dump()
    write_text(Path(f"reports/diagnosis/default/picks/{name}.json"), json.dumps(pick))


def write_scores(name: str, scored: str, *, shift: float = 0.0, num: int = 40, seed: int = 0) -> None:
    """Write scores of the first test images; every one is typical by `shift` more than standard normal ones."""
    generator = np.random.default_rng(seed)
    rows = [
        {"image": i, "label": i % 2, "class": CLASSES[i % 2], "pixel_mean": generator.uniform()}
        | {method: told.sign * float(generator.normal(shift)) for method, told in METHODS.items()}
        for i in range(num)
    ]
    write_text(path_of(name, scored), scores_text(rows))


def path_of(name: str, scored: str) -> Path:
    return scores_path(name, scored, settings())
