"""Probe a cell's backbone, frozen or fine-tuned: `python -m stages.probe runs/<grid>/configs/<cell>/probe.json`."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline.core.checkpoints import Checkpoints, checkpoints_folder
from pipeline.core.distributed.devices import announced, choose_device
from pipeline.data import preflight
from pipeline.data.loader import open_split
from pipeline.data.packed import read_meta
from pipeline.data.views.multicrop import Multicrop
from pipeline.models import backbones, features
from pipeline.models.weights import load_weights
from pipeline.probing import finetune, health, probes, view_sheet
from pipeline.runtime import rooms
from pipeline.runtime.files import read_json, write_bytes, write_json
from pipeline.schema.resolved import ProbeRun
from pipeline.tracking.live_run import publish_or_warn
from pipeline.tracking.record import cell_record
from stages import run


def main(config_path: str) -> None:
    cell = ProbeRun.read(Path(config_path))
    architecture, views = (cell.backbone, cell.backbone_kwargs), cell.views
    if cell.model:  # a frozen public model says itself how it is built and what it was shown
        model = read_json(Path(cell.model))
        architecture = model["backbone"], model["kwargs"]
        seen = {"global_px": model["size_px"], "mean": model["mean"], "std": model["std"]}
        views = views.model_copy(update=seen)
    device, meta = choose_device(cell.device), read_meta(cell.data)
    preflight.check_probe(cell, meta)
    settings, num_workers = cell.probe, cell.loader.num_workers
    shown = (views.global_px, views.mean, views.std, settings.batch_size)
    reader = features.Reader(*shown, num_workers, device, announced(cell.precision, device))
    task = probes.Task(len(meta["classes"]), settings, cell.seed)
    opening = {"load_px": cell.load_px, "memory_gb": cell.loader.memory_gb}
    splits = [open_split(cell.data, name, **opening) for name in ("train", "test")]
    networks = {"": backbones.create_backbone(*architecture)}
    load_weights(Path(cell.weights), networks[""])
    if "random_init" in settings.baselines:
        networks["random_init_"] = backbones.initial_backbone(*architecture, seed=cell.seed)
    sources = [Path(cell.weights), *rooms.sources("probe")]
    checkpoints = Checkpoints(Path(".scratch/checkpoints"), [cell.result_key(), meta], sources)

    def measure(extract):
        return (probes.Split(extract(images).to(device), images.labels.to(device)) for images in splits)

    make_views, trained = Multicrop(**views.model_dump()), None
    if not cell.model:
        shutil.rmtree(checkpoints_folder(cell), ignore_errors=True)  # DVC has recorded what pretraining wrote
        trained = health.load_trained(Path(cell.beside), make_views, cell.trained, lamb=cell.lamb)
    how = {"views": make_views, "reader": reader, "trained": trained}
    write_json(Path(cell.out) / "health.json", health.report(networks[""], splits[1], settings.health, **how))
    metrics: dict[str, float] = {}
    for prefix, network in networks.items():
        train, test = measure(partial(features.embeddings, network, reader=reader, site=settings.site))
        if settings.mode == "finetune":
            found = finetune.evaluate(network, *splits, task, reader, checkpoints, label=prefix)
            found["knn_top1"] = probes.knn_probe(train, test, num_classes=task.num_classes, **settings.knn.model_dump())
        else:
            found = probes.evaluate(train, test, task)
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    if "raw_pixels" in settings.baselines:
        found = probes.evaluate(*measure(partial(features.raw_pixels, reader=reader)), task)
        metrics |= {f"raw_pixels_{name}": value for name, value in found.items()}
    write_json(Path(cell.out) / "metrics.json", metrics)
    checkpoints.remove()
    if not cell.model:
        write_bytes(Path(cell.out) / "views.png", view_sheet.draw(splits[0], make_views))
    publish_or_warn(cell_record(Path(config_path).parent))


if __name__ == "__main__":
    run(main)
