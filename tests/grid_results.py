"""Made-up results of a small grid, written where the stages would write them (always a temporary folder)."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

from pipeline.settings.cells import Cell

DATASETS = {"fashion-mnist-8k": (0.76, 0.745), "digits": (0.965, 0.951)}
BACKBONES = ("test_resnet", "test_convnext", "test_vit", "test_efficientnet")
LAMBDAS = (0.02, 0.1)


def make_cells(datasets=tuple(DATASETS), backbones=BACKBONES, lambdas=LAMBDAS, seeds=(0,)) -> list[Cell]:
    return [Cell("default", *axes) for axes in product(datasets, backbones, lambdas, seeds)]


def pretrain_metrics(**changes) -> dict:
    """Return metrics.json; a run with the alarm collapse stays collapsed unless said otherwise."""
    base = {"num_params": 330_000, "epochs": 12, "train_loss": 0.25, "pred_loss": 0.2, "sigreg_loss": 1.5}
    base |= {"embed_dim": 256, "num_images": 6000, "images_seen": 72_000}
    return base | {"collapsed": "collapse" in changes.get("alarms", {})} | changes


def probe_metrics(**changes) -> dict:
    base = {"linear_top1": 0.82, "knn_top1": 0.75, "random_init_linear_top1": 0.76, "random_init_knn_top1": 0.65}
    return base | {"linear_lr": 0.01} | changes


def write_cell(root: Path, cell: Cell, pretrain: dict | None, probe: dict | None, epochs: int = 12) -> None:
    for stage, metrics in (("pretrain", pretrain), ("probe", probe)):
        if metrics is not None:
            (root / cell.folder / stage).mkdir(parents=True, exist_ok=True)
            (root / cell.folder / stage / "metrics.json").write_text(json.dumps(metrics))
    if pretrain is not None:
        write_history(root, cell, epochs, loss=0.3)


def write_history(
    root: Path, cell: Cell, epochs: int, loss: float, scale: float = 1.0, *, watched: bool = False
) -> None:
    lines = ["epoch,loss,pred_loss,sigreg_loss,lr" + ",embedding_rank,projection_epps_pulley" * watched]
    for e in range(1, epochs + 1):
        total, pred, sigreg = loss + 0.8 / e, 0.8 * loss + 0.1 / e, 1 + 34 / e**1.6
        health = f",{20 - 8 / e:.3f},{sigreg:.3f}" if watched else ""
        lines.append(f"{e},{scale * total:.4f},{scale * pred:.4f},{scale * sigreg:.4f},0.001{health}")
    (root / cell.folder / "pretrain" / "history.csv").write_text("\n".join(lines) + "\n")


def write_grid(root: Path, cells: list[Cell], shots=(1, 10)) -> None:
    """Write plausible metrics for every cell, seeded by the cell's key; at the first lambda the training is watched."""
    for cell in cells:
        rng, initial = random.Random(cell.key), random.Random(cell.dataset + cell.backbone + str(cell.seed))
        linear, knn = DATASETS.get(cell.dataset, (0.7, 0.6))
        loss = rng.uniform(0.15, 0.5) + cell.lamb
        num_params = initial.randint(200_000, 400_000)
        random_gain = -0.02 + initial.gauss(0, 0.012)
        gains = {"": 0.06 - 0.1 * loss + rng.gauss(0, 0.012), "random_init_": random_gain, "raw_pixels_": 0.0}
        probe = {}
        for prefix, gain in gains.items():
            probe[f"{prefix}linear_top1"] = min(1.0, linear + gain)
            probe[f"{prefix}knn_top1"] = min(1.0, knn + 1.4 * gain)
            for k in shots:
                probe[f"{prefix}linear_top1_{k}shot"] = linear * (0.55 if k == 1 else 0.83) + 2 * gain
                probe[f"{prefix}linear_top1_{k}shot_std"] = 0.04 / k**0.5
        losses = {"train_loss": loss, "pred_loss": loss * 0.8, "sigreg_loss": 1 + loss}
        write_cell(root, cell, pretrain_metrics(num_params=num_params, **losses), probe)
        write_history(root, cell, 12, loss, rng.uniform(0.7, 1.4), watched=cell.lamb == cells[0].lamb)
