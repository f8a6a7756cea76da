"""Pretrain one cell: `python -m stages.pretrain runs/<grid>/configs/<cell>/pretrain.json`; also under torchrun."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pipeline.core.checkpoints import Checkpoints, checkpoints_folder
from pipeline.core.results import read_json, write_pretraining
from pipeline.data import preflight
from pipeline.data.loader import open_split
from pipeline.data.packed import read_meta
from pipeline.data.shuffle import build_shuffle
from pipeline.distributed import devices
from pipeline.distributed.collectives import process_group, rank, world_size
from pipeline.distributed.torchrun import relaunch_under_torchrun
from pipeline.losses.objective import build_objective
from pipeline.runtime import provenance, rooms
from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import opening_record
from pipeline.training import loop
from pipeline.training.held_out import build_monitor
from pipeline.training.learner import build_learner, save_networks
from pipeline.training.monitor import NullTracker, run_epochs
from pipeline.views.multicrop import Multicrop
from stages import run


def main(config_path: str) -> int | None:
    path = Path(config_path)
    config, execution = read_json(path), read_json(path.with_name("execution.json"))
    probe = read_json(path.with_name("probe.json"))  # read so that nothing it would refuse shows after the training
    status = relaunch_under_torchrun("stages.pretrain", config_path, execution["layout"]["processes"])
    if status is None:
        with process_group(devices.choose_device(config["pretrain"]["device"])) as device:
            train(config, execution, probe, device)
    return status


def train(config: dict, execution: dict, probe: dict, device: torch.device) -> None:
    started = time.monotonic()
    settings, out, loader = config["pretrain"], Path(config["out"]), execution["loader"]
    autocast, meta = devices.announced(settings["precision"], device), read_meta(config["data"])
    preflight.check(config, probe, meta, meta if probe["data"] == config["data"] else None)
    images = open_split(config["data"], "train", load_px=settings["load_px"], memory_gb=loader["memory_gb"])
    learner = build_learner(config, device, micro_batch_size=execution["layout"]["micro_batch_size"])
    identity = [{**config, "pretrain": {**settings, "health": None}}, meta]
    checkpoints = Checkpoints(checkpoints_folder(config), identity, rooms.sources("pretrain"))
    epochs = loop.pretrain(
        learner,
        images,
        make_views=Multicrop(**settings["views"]),
        objective=build_objective(config),
        seed=config["seed"],
        **loop.schedule_arguments(settings),
        device=device,
        autocast=autocast,
        num_workers=loader["num_workers"],
        checkpoints=checkpoints,
        checkpoint_minutes=execution["checkpoint"]["minutes"],
        watch=build_monitor(config, device, autocast),
        shuffle=build_shuffle(config),
    )
    record = opening_record(config, provenance.commit())
    with NullTracker() if rank() else LiveRun(record, afresh=not checkpoints.exist()) as tracked:
        steps_per_epoch = len(images.labels) // settings["batch_size"]
        history, story, times = run_epochs(epochs, tracked, settings, steps_per_epoch=steps_per_epoch)
    if rank():
        return
    save_networks(out, learner, config)
    numbers = loop.summary(learner.backbone, config["embed_dim"], len(images.labels), settings, history)
    where = provenance.describe(str(device), world_size(), **devices.found(device, autocast))
    where |= {"wall_s": round(time.monotonic() - started, 1), **times, "config": config}
    write_pretraining(out, history, numbers | story, where)


if __name__ == "__main__":
    run(main)
