"""Finished cells whose files are written by hand: weights of an untrained network, made-up numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.models.backbones import backbone_arguments, initial_backbone
from pipeline.models.weights import save_weights
from pipeline.runtime.files import write_json
from pipeline.schema.pretrain import Backbone, Pretrain, Schedule, Views
from pipeline.schema.probe import Probe
from pipeline.schema.resolved import Execution, PretrainRun, ProbeRun, TrainedWith

ROOT = Path(__file__).parents[1]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SCORES = {
    "linear_top1": 0.81234, "linear_lr": 0.01, "knn_top1": 0.7, "linear_top1_1shot": 0.4567,
    "linear_top1_1shot_std": 0.0234, "linear_top1_10shot": 0.6, "linear_top1_10shot_std": 0.01,
    "random_init_linear_top1": 0.5, "random_init_knn_top1": 0.41,
}  # fmt: skip
META = {
    "name": "digits", "source": {"source": "sklearn", "dataset": "digits"}, "origin": "sklearn.datasets.load_digits",
    "classes": list("0123456789"), "splits": {"train": {"num_images": 1438}, "test": {"num_images": 359}},
}  # fmt: skip


def trained_network(backbone: str, arguments: dict[str, Any]) -> nn.Module:
    """Build a network whose normalisation layers are not as at the start."""
    network = initial_backbone(backbone, arguments, seed=0)
    draws = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1 and "var" not in name:
            tensor += 0.1 * torch.randn(tensor.shape, generator=draws)
    return network


def finish_cell(
    folder: Path, backbone: str, *, grid: str = "default", summary: dict[str, Any] | None = None, **probe: Any
) -> tuple[str, nn.Module]:
    """Write every file of a finished cell on digits below a folder; return its key and its network."""
    key = f"digits--{backbone}--lambda0.05--seed0"
    patch = {"patch_size": 8} if "vit" in backbone else {}
    views = Views(global_px=32, num_local=0, mean=MEAN, std=STD)
    schedule = Schedule(warmup_epochs=1)
    pretrain = Pretrain(epochs=2, batch_size=16, views=views, backbone=Backbone(**patch), schedule=schedule)
    arguments = backbone_arguments(backbone, img_size=32, **patch)
    network = trained_network(backbone, arguments)
    results, configs = Path("runs") / grid / key, folder / "runs" / grid / "configs" / key
    settings = Probe(**probe)
    axes = {
        "grid": grid, "cell": key, "dataset": "digits", "backbone": backbone, "lamb": 0.05, "seed": 0,
        "target": "digits", "choices": {}, "backbone_kwargs": arguments, "data": "data/digits", "probe": settings,
    }  # fmt: skip
    run = PretrainRun(**axes, embed_dim=network.num_features, out=f"{results}/pretrain", pretrain=pretrain)
    probed = ProbeRun(
        **axes, weights=f"{results}/pretrain/backbone.safetensors", beside=f"{results}/pretrain/projector.safetensors",
        out=f"{results}/probe", device="cpu", precision="auto", load_px=256, views=views, loader=pretrain.loader,
        trained=TrainedWith.of(pretrain, {}),
    )  # fmt: skip
    write_json(configs / "pretrain.json", run.result_key())
    write_json(configs / "probe.json", probed.result_key())
    write_json(configs / "execution.json", Execution.of(pretrain, settings).model_dump(mode="json"))
    save_weights(folder / probed.weights, network, {"backbone": backbone})
    numbers = {"num_params": 1, "embed_dim": network.num_features, "epochs": 2, "train_loss": 0.5, "pred_loss": 0.25}
    numbers |= {"sigreg_loss": 3.0, "alarms": {}, "collapsed": False, "objective": "lejepa", **(summary or {})}
    write_json(folder / results / "pretrain/metrics.json", numbers)
    hardware = {"device": "cpu", "device_name": "a processor"}
    origin = {"commit": "abc", "versions": {"torch": "2"}, "hardware": hardware, "num_processes": 1, "wall_s": 30.0}
    write_json(folder / results / "pretrain/provenance.json", origin | {"config": run.result_key()})
    write_json(folder / results / "probe/metrics.json", SCORES)
    write_json(folder / "data/digits/meta.json", META)
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return key, network.eval()
