"""Pretrain one cell: `python -m stages.pretrain runs/<grid>/configs/<cell>/pretrain.json`."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline import preflight, provenance, training
from pipeline.checkpoint import Checkpoints, checkpoints_folder, save_weights
from pipeline.datasets import open_split, read_meta
from pipeline.devices import choose_autocast, choose_device
from pipeline.files import write_json
from pipeline.follow import follow
from pipeline.learner import build_learner
from pipeline.results import opening_record, read_json, write_history
from pipeline.tracking import LiveRun
from pipeline.views import Multicrop
from pipeline.watch import build_watch
from stages import run


def main(config_path: str) -> None:
    started = time.monotonic()
    path = Path(config_path)
    config, execution = read_json(path), read_json(path.with_name("execution.json"))
    probe = read_json(path.with_name("probe.json"))  # read so that nothing it would refuse shows after the training
    settings, seed, out = config["pretrain"], config["seed"], Path(config["out"])
    loader, views, optimizer = execution["loader"], settings["views"], settings["optimizer"]
    device = choose_device(settings["device"])
    autocast = choose_autocast(settings["precision"], device)
    meta = read_meta(config["data"])
    preflight.check(config, probe, meta, meta if probe["data"] == config["data"] else None)
    images = open_split(config["data"], "train", load_px=settings["load_px"], memory_gb=loader["memory_gb"])
    learner = build_learner(config, device)
    identity = [{**config, "pretrain": {**settings, "health": None}}, meta]
    checkpoints = Checkpoints(checkpoints_folder(config), identity, provenance.loaded_sources())
    epochs = training.pretrain(
        learner,
        images,
        make_views=Multicrop(**views),
        objective=training.lejepa_objective(
            lamb=config["lambda"],
            num_global=views["num_global"],
            seed=seed,
            proj_dim=settings["projector"]["proj_dim"],
            **settings["sigreg"],
        ),
        seed=seed,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        lr=optimizer["lr"],
        **settings["schedule"],
        device=device,
        autocast=autocast,
        num_workers=loader["num_workers"],
        checkpoints=checkpoints,
        checkpoint_minutes=execution["checkpoint"]["minutes"],
        watch=build_watch(config, device, autocast),
    )
    with LiveRun(opening_record(config, provenance.commit()), afresh=not checkpoints.exist()) as tracked:
        steps_per_epoch = len(images.labels) // settings["batch_size"]
        history, story, times = follow(epochs, tracked, settings, steps_per_epoch=steps_per_epoch)
    model = {"backbone": config["backbone"], "kwargs": config["backbone_kwargs"], "img_size_px": views["global_px"]}
    save_weights(out / "backbone.safetensors", learner.backbone, {**model, "mean": views["mean"], "std": views["std"]})
    projector = {"width": config["embed_dim"], **settings["projector"]}
    save_weights(out / "projector.safetensors", learner.projector, projector)
    write_history(out / "history.csv", history)
    numbers = training.summary(learner.backbone, config["embed_dim"], len(images.labels), settings, history)
    write_json(out / "metrics.json", {**numbers, **story})
    times["wall_s"] = round(time.monotonic() - started, 1)
    write_json(out / "provenance.json", {**provenance.describe(str(device)), **times, "config": config})


if __name__ == "__main__":
    run(main)
