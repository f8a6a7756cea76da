"""Probe one pretrained cell: `python -m stages.probe runs/<grid>/configs/<cell>/probe.json`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline import backbones, features, probes
from pipeline.checkpoint import load_weights
from pipeline.datasets import open_split, read_meta
from pipeline.devices import choose_autocast, choose_device
from pipeline.files import write_json
from pipeline.results import cell_record, read_json
from pipeline.tracking import publish_or_warn
from stages import run


def main(config_path: str) -> None:
    config = read_json(Path(config_path))
    settings, reading, seed = config["probe"], config["reading"], config["seed"]
    device = choose_device(config["device"])
    splits = {
        name: open_split(config["data"], name, load_px=reading["load_px"], memory_gb=reading["memory_gb"])
        for name in ("train", "test")
    }
    loading = {
        "size_px": reading["size_px"],
        "batch_size": reading["batch_size"],
        "num_workers": reading["num_workers"],
    }
    embed = partial(
        features.embeddings,
        mean=reading["mean"],
        std=reading["std"],
        device=device,
        autocast=choose_autocast(config["precision"], device),
        **loading,
    )
    random_init = backbones.initial_backbone(config["backbone"], config["backbone_kwargs"], seed=seed)
    pretrained = backbones.create_backbone(config["backbone"], config["backbone_kwargs"])
    load_weights(Path(config["weights"]), pretrained)
    kinds = {
        "": partial(embed, pretrained),
        "random_init_": partial(embed, random_init),
        "raw_pixels_": partial(features.raw_pixels, **loading),
    }
    num_classes = len(read_meta(config["data"])["classes"])
    metrics: dict[str, float] = {}
    for prefix, extract in kinds.items():
        train, test = (probes.Split(extract(images), images.labels) for images in splits.values())
        found = probes.evaluate(train, test, num_classes=num_classes, settings=settings, seed=seed)
        metrics.update({f"{prefix}{name}": value for name, value in found.items()})
    write_json(Path(config["out"]) / "metrics.json", metrics)
    publish_or_warn(cell_record(Path(config_path).parent))


if __name__ == "__main__":
    run(main)
