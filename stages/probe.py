"""Probe a cell's backbone, frozen or fine-tuned: `python -m stages.probe runs/<grid>/configs/<cell>/probe.json`."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline import features
from pipeline.core.checkpoints import Checkpoints, checkpoints_folder
from pipeline.core.results import read_json
from pipeline.data import preflight
from pipeline.data.loader import open_split
from pipeline.data.packed import read_meta
from pipeline.distributed.devices import announced, choose_device
from pipeline.models import backbones
from pipeline.models.weights import load_weights
from pipeline.probing import finetune, health, probes
from pipeline.runtime import rooms
from pipeline.runtime.files import write_json
from pipeline.tracking.live_run import publish_or_warn
from pipeline.tracking.record import cell_record
from pipeline.views.multicrop import Multicrop
from stages import run


def main(config_path: str) -> None:
    config = read_json(Path(config_path))
    execution = read_json(Path(config_path).with_name("execution.json"))
    settings, files, seed = config["probe"], config["reading"] | execution["loader"], config["seed"]
    if "model" in config:  # a frozen public model says itself how it is built and what it was shown
        model = read_json(Path(config["model"]))
        architecture = model["backbone"], model["kwargs"]
        files |= {name: model[name] for name in ("size_px", "mean", "std")}
    else:
        architecture = config["backbone"], config["backbone_kwargs"]
    device, meta = choose_device(config["device"]), read_meta(config["data"])
    preflight.check_probe(config, meta)
    loading = {name: files[name] for name in ("size_px", "batch_size", "num_workers")}
    autocast = announced(config["precision"], device)
    reading = {**loading, "mean": files["mean"], "std": files["std"], "device": device, "autocast": autocast}
    task = {"num_classes": len(meta["classes"]), "settings": settings, "seed": seed}
    opening = {name: files[name] for name in ("load_px", "memory_gb")}
    splits = [open_split(config["data"], name, **opening) for name in ("train", "test")]
    networks = {"": backbones.create_backbone(*architecture)}
    load_weights(Path(config["weights"]), networks[""])
    if "random_init" in settings["baselines"]:
        networks["random_init_"] = backbones.initial_backbone(*architecture, seed=seed)
    sources = [Path(config["weights"]), *rooms.sources("probe")]
    checkpoints = Checkpoints(Path(".scratch/checkpoints"), [config, meta], sources)

    def measure(extract):
        return (probes.Split(extract(images).to(device), images.labels.to(device)) for images in splits)

    views = Multicrop(**config["views"] | {"global_px": files["size_px"], "mean": files["mean"], "std": files["std"]})
    trained = None
    if "model" not in config:
        shutil.rmtree(checkpoints_folder(config), ignore_errors=True)  # DVC has recorded what pretraining wrote
        trained = health.load_trained(Path(config["beside"]), views, lamb=config["lambda"], **config["training"])
    facts = health.report(networks[""], splits[1], views=views, reading=reading, trained=trained, **settings["health"])
    write_json(Path(config["out"]) / "health.json", facts)
    metrics: dict[str, float] = {}
    for prefix, network in networks.items():
        train, test = measure(partial(features.embeddings, network, site=settings["site"], **reading))
        if settings["mode"] == "finetune":
            found = finetune.evaluate(network, *splits, reading=reading, checkpoints=checkpoints, label=prefix, **task)
            found["knn_top1"] = probes.knn_probe(train, test, num_classes=task["num_classes"], **settings["knn"])
        else:
            found = probes.evaluate(train, test, **task)
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    if "raw_pixels" in settings["baselines"]:
        found = probes.evaluate(*measure(partial(features.raw_pixels, **loading)), **task)
        metrics |= {f"raw_pixels_{name}": value for name, value in found.items()}
    write_json(Path(config["out"]) / "metrics.json", metrics)
    checkpoints.remove()
    publish_or_warn(cell_record(Path(config_path).parent))


if __name__ == "__main__":
    run(main)
