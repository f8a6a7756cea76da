"""A training of seconds on real digits, and what it comes to, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models.backbones import initial_backbone
from pipeline.models.projector import make_projector
from pipeline.schema.pretrain import Pretrain
from pipeline.settings.cells import merge
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from pipeline.training.epochs import Epoch
from pipeline.training.learner import Learner, make_learner
from pipeline.training.loop import Recipe, pretrain

CPU = torch.device("cpu")
PROJ_DIM, NUM_GLOBAL, LAMB = 8, 2, 0.1
VIEWS = Multicrop(
    num_global=NUM_GLOBAL, num_local=1, global_px=16, local_px=8, flip_prob=0, mean=[0.5] * 3, std=[0.5] * 3
)
VIT = {"img_size": 16, "patch_size": 8, "dynamic_img_size": True}
SETTINGS = {
    "epochs": 3,
    "batch_size": 16,
    "channels_last": False,
    "optimizer": {"lr": 3e-3, "weight_decay": 0.05},
    "schedule": {"warmup_epochs": 0.5, "final_lr_frac": 1e-3},
    "loader": {"num_workers": 0},
}


def settings(**changes) -> Pretrain:
    """The section `pretrain` of the small training, with changes of its sections."""
    return Pretrain.model_validate(merge(SETTINGS, changes))


def digits(num: int = 40) -> np.ndarray:
    return (load_digits().images[:num] * 15.9).astype(np.uint8)


def in_a_batch(pictures: np.ndarray) -> ImageBatch:
    pixels = torch.from_numpy(pictures)[:, None]
    return ImageBatch(pixels, torch.zeros(len(pixels), dtype=torch.int64))


def packed(folder: Path) -> PackedSplit:
    splits = {name: [Picture(image, i % 2, str(i)) for i, image in enumerate(digits())] for name in ("train", "test")}
    pack(folder, "digits", {"source": "sklearn"}, ["a", "b"], splits)
    return PackedSplit(folder, "train", load_px=64)


def new_learner(seed: int = 0, backbone: str = "test_vit", arguments: dict | None = None) -> Learner:
    model = initial_backbone(backbone, VIT if arguments is None else arguments, seed=seed)
    with torch.no_grad():
        dim = model.eval()(torch.zeros(1, 3, 16, 16)).shape[1]
    projector = make_projector(dim, hidden_dims=[16], proj_dim=PROJ_DIM)
    return make_learner(model, projector, settings(), CPU)


def objective(seed: int = 0, lamb: float = LAMB, statistic: str = "epps_pulley"):
    return RunObjective(LeJEPA(statistic=statistic, num_slices=16), lamb, NUM_GLOBAL, seed)


def start(learner: Learner, images, folder, *, watch=None, seed=0, **changes) -> Iterator[Epoch]:
    """Start a training; `make_views`, `objective`, `shuffle` are of its recipe, further changes of its settings."""
    recipe = {"make_views": VIEWS, "objective": objective(seed), "seed": seed}
    recipe |= {name: changes.pop(name) for name in ("make_views", "objective", "shuffle") if name in changes}
    how = {"device": CPU, "autocast": choose_autocast("auto", CPU), "watch": watch}
    checkpoints = Checkpoints(folder, "run")
    return pretrain(learner, images, settings(**changes), Recipe(**recipe), checkpoints=checkpoints, **how)


def bits(value) -> object:
    """Return a state as nested plain data, so that == compares every bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def outcome(learner: Learner, images, folder, **changes):
    history = list(start(learner, images, folder, **changes))
    return bits([learner.state(), timeless(history)])


def timeless(history: list[Epoch]) -> list[Epoch]:
    """Leave out the waiting times, which no two runs share."""
    return [epoch._replace(wait_frac=0.0, wall_s=0.0) for epoch in history]
