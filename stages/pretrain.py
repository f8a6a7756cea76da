"""Pretrain one cell: `python -m stages.pretrain runs/<grid>/configs/<cell>/pretrain.json`."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline import provenance, training
from pipeline.checkpoint import Checkpoints, save_weights
from pipeline.datasets import open_split, read_meta
from pipeline.devices import choose_autocast, choose_device
from pipeline.files import write_json
from pipeline.learner import build_learner
from pipeline.results import opening_record, read_json, write_history
from pipeline.tracking import LiveRun
from pipeline.views import Multicrop
from pipeline.watch import build_watch
from stages import run


def main(config_path: str) -> None:
    started = time.monotonic()
    config = read_json(Path(config_path))
    settings, seed, out = config["pretrain"], config["seed"], Path(config["out"])
    loader, views, optimizer = settings["loader"], settings["views"], settings["optimizer"]
    device = choose_device(settings["device"])
    autocast = choose_autocast(settings["precision"], device)
    images = open_split(config["data"], "train", load_px=settings["load_px"], memory_gb=loader["memory_gb"])
    learner = build_learner(config, device)
    identity = [{**config, "pretrain": {**settings, "loader": None, "health": None}}, read_meta(config["data"])]
    checkpoints = Checkpoints(Path(".scratch/checkpoints"), identity, provenance.loaded_sources())
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
        watch=build_watch(config, device, autocast),
    )
    history = []
    with LiveRun(opening_record(config, provenance.commit()), afresh=not checkpoints.exist()) as run:
        for epoch in epochs:
            history.append(epoch.row())
            run.log_epoch(history[-1])
    model = {"backbone": config["backbone"], "kwargs": config["backbone_kwargs"], "img_size_px": views["global_px"]}
    save_weights(out / "backbone.safetensors", learner.backbone, {**model, "mean": views["mean"], "std": views["std"]})
    projector = {"width": config["embed_dim"], **settings["projector"]}
    save_weights(out / "projector.safetensors", learner.projector, projector)
    write_history(out / "history.csv", history)
    write_json(
        out / "metrics.json",
        training.summary(learner.backbone, config["embed_dim"], len(images.labels), settings, history),
    )
    where = provenance.describe(str(device))
    write_json(out / "provenance.json", {**where, "wall_s": round(time.monotonic() - started, 1), "config": config})
    checkpoints.remove()


if __name__ == "__main__":
    run(main)
