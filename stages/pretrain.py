"""Pretrain one cell: `python -m stages.pretrain runs/<grid>/configs/<cell>/pretrain.json`; also under torchrun."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pipeline.core.checkpoints import Checkpoints, checkpoints_folder
from pipeline.core.distributed import devices
from pipeline.core.distributed.collectives import process_group, rank, world_size
from pipeline.core.distributed.torchrun import relaunch_under_torchrun
from pipeline.core.results import write_pretraining
from pipeline.data import preflight
from pipeline.data.loader import how_read, open_split
from pipeline.data.packed import read_meta
from pipeline.data.shuffle import build_shuffle
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import build_objective
from pipeline.models import backbones
from pipeline.runtime import provenance, rooms
from pipeline.schema.resolved import PretrainRun
from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import opening_record
from pipeline.training import loop
from pipeline.training.held_out import build_monitor
from pipeline.training.learner import build_learner, save_networks
from pipeline.training.monitor import NullTracker, run_epochs
from stages import run


def main(config_path: str) -> int | None:
    cell = PretrainRun.read(Path(config_path))
    status = relaunch_under_torchrun("stages.pretrain", config_path, cell.pretrain.layout.processes)
    if status is None:
        with process_group(devices.choose_device(cell.pretrain.device)) as device:
            train(cell, device)
    return status


def train(cell: PretrainRun, device: torch.device) -> None:
    started, settings, views = time.monotonic(), cell.pretrain, cell.pretrain.views
    autocast, meta = devices.announced(settings.precision, device), read_meta(cell.data)
    preflight.check(cell, meta)
    images = open_split(cell.data, "train", load_px=settings.load_px, memory_gb=settings.loader.memory_gb)
    backbone = backbones.initial_backbone(cell.backbone, cell.backbone_kwargs, seed=cell.seed)
    shape = {"lamb": cell.lamb, "num_global": views.num_global, "seed": cell.seed}
    objective = build_objective(settings.objective, settings.objective_settings(), **shape)
    what = {"objective": objective.objective, "num_classes": len(meta["classes"])}
    learner = build_learner(backbone, cell.embed_dim, settings, device, **what)
    recipe = loop.Recipe(
        Multicrop(**views.model_dump()),
        objective,
        cell.seed,
        build_shuffle(cell.data, window_gb=settings.shuffle_window_gb),
    )
    checkpoints = Checkpoints(checkpoints_folder(cell), [cell.result_key(), meta], rooms.sources("pretrain"))
    watch = build_monitor(cell.data, settings, device, autocast)
    how = {"device": device, "autocast": autocast, "checkpoints": checkpoints, "watch": watch}
    epochs = loop.pretrain(learner, images, settings, recipe, **how)
    record = opening_record(cell, {"commit": provenance.commit(), "branch": provenance.branch()})
    with NullTracker() if rank() else LiveRun(record, afresh=not checkpoints.exist()) as tracked:
        steps_per_epoch = len(images.labels) // settings.batch_size
        history, story, times = run_epochs(epochs, tracked, settings, steps_per_epoch=steps_per_epoch)
    out = Path(cell.out)
    save_networks(out, learner, cell)
    if rank():
        return
    numbers = loop.summary(learner.backbone, cell.embed_dim, len(images.labels), settings.batch_size, history)
    where = provenance.describe(str(device), world_size(), **devices.found(device, autocast))
    where |= {"wall_s": round(time.monotonic() - started, 1), **times, "images": how_read(images)}
    where |= {"peak_memory_mib": round(devices.peak_memory_mib(device)), "usage": tracked.usage}
    where["config"] = cell.result_key()
    numbers |= story | {"objective": settings.objective} | objective.weighing(settings.batch_size)
    write_pretraining(out, history, numbers, where)


if __name__ == "__main__":
    run(main)
