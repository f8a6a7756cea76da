"""Claims about what is watched during training (that a watched run has the bits of another: test_resuming.py):

1. The numbers are those of the embeddings and projections that evaluation mode gives, mean over fixed slices.
2. Weights, running statistics, gradients, modes and every random state stay as they are; nothing of inference mode is
   left behind.
3. The images are some of the test split, the same for every run.
4. A network that diverged gives numbers that are not finite, never an error; one that collapsed has a rank of 1 and no
   spread, and so rings.
"""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from small_training import digits
from torch import nn

from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.packed import ImageBatch
from pipeline.losses import spectrum
from pipeline.losses.lejepa import epps_pulley, random_directions
from pipeline.models.backbones import initial_backbone
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector
from pipeline.schema.pretrain import Alarms, Pretrain
from pipeline.settings.objective_rules import RESERVED
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from pipeline.training import alerts
from pipeline.training.held_out import HeldOutMonitor, build_monitor

CPU = torch.device("cpu")
VIEW = {"size_px": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
NAMES = [f"{site}_{fact}" for site in ("embedding", "projection") for fact in ("norm", "std", "rank", "isotropy")]


@pytest.fixture(scope="module")
def watch() -> HeldOutMonitor:
    pixels = torch.from_numpy(digits(50))[:, None]
    images = ImageBatch(pixels, torch.arange(50) % 10)
    directions = random_directions(8, 12, generator=torch.Generator().manual_seed(0))
    return HeldOutMonitor(images, directions, VIEW, 16, CPU, choose_autocast("float32", CPU))


@pytest.fixture
def modules() -> tuple[nn.Module, nn.Module]:
    """A backbone with BatchNorm and one of dropout, as they are in the middle of training."""
    backbone = initial_backbone("test_resnet", {"drop_path_rate": 0.2}, seed=0)
    projector = make_projector(backbone.num_features, hidden_dims=[16], proj_dim=8)
    for _ in range(3):  # running statistics that are not those of a batch
        projector.train()(backbone.train()(torch.rand(8, 3, 16, 16)))
    return backbone, projector


# 1. Numbers


def test_numbers_are_those_of_evaluation_mode(watch, modules):
    backbone, projector = modules
    found = watch(backbone, projector)
    assert found.keys() <= RESERVED, "names that an objective's parts must not have"
    assert list(found) == [*NAMES, "projection_epps_pulley"] and all(type(value) is float for value in found.values())

    autocast = choose_autocast("float32", CPU)
    reader = Reader(**VIEW, batch_size=50, num_workers=0, device=CPU, autocast=autocast)
    z = embeddings(backbone.eval(), watch.images, reader).clone()
    with torch.no_grad():
        p = projector.eval()(z)
    for name, samples in (("embedding", z), ("projection", p)):
        assert found[f"{name}_norm"] == pytest.approx(samples.norm(dim=1).mean().item(), rel=1e-4)
        wanted = samples.var(0, correction=0).mean().sqrt().item()
        assert found[f"{name}_std"] == pytest.approx(wanted, rel=1e-3)
        assert found[f"{name}_isotropy"] == pytest.approx(spectrum.isotropy(samples), rel=1e-3)
        wanted = spectrum.effective_rank(torch.linalg.svdvals(samples))
        assert found[f"{name}_rank"] == pytest.approx(wanted, rel=1e-3)
    wanted = epps_pulley(p @ watch.directions).mean().item()
    assert found["projection_epps_pulley"] == pytest.approx(wanted, rel=1e-3)


# 2. Nothing changes


def test_nothing_changes(watch, modules):
    backbone, projector = modules
    projector.eval()  # each part comes back in its own mode
    before = copy.deepcopy([module.state_dict() for module in modules])
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    watch(backbone, projector)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())
    assert all(part.training for part in backbone.modules()) and not any(part.training for part in projector.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_nothing_of_inference_mode_is_left(watch, modules):
    """A cache that an evaluation fills must serve training: inference tensors cannot be part of a gradient."""
    backbone, projector = modules
    kept = []
    backbone.global_pool.register_forward_hook(lambda *seen: kept.append(seen[-1]))
    watch(backbone, projector)
    weight = torch.ones(1, requires_grad=True)
    (weight * kept[0]).sum().backward()
    assert weight.grad.isfinite().all()


# 3. Images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pictures = [Picture(image, i % 2, str(i)) for i, image in enumerate(digits(60))]
    pack(folder, "digits", {"source": "sklearn"}, ["a", "b"], {"train": pictures[:40], "test": pictures[40:]})
    return str(folder)


def monitor(folder: str, num_images: int = 12) -> HeldOutMonitor | None:
    views = {"num_global": 2, "num_local": 0, "global_px": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
    settings = {"health": {"num_images": num_images, "num_slices": 5}, "views": views, "load_px": 64, "batch_size": 16}
    pretrain = Pretrain.model_validate({**settings, "epochs": 11, "projector": {"proj_dim": 8}})
    return build_monitor(folder, pretrain, CPU, choose_autocast("float32", CPU))


def test_the_first_rank_alone_decodes_them(folder, monkeypatch):
    monkeypatch.setattr("pipeline.training.held_out.rank", lambda: 1)
    assert monitor(folder) is None


def test_images_are_some_of_the_test_split(folder):
    found, other = monitor(folder), monitor(folder)
    shown = [image.numpy().tobytes() for image in found.images.pixels[:, 0]]
    test = [image.tobytes() for image in digits(60)[40:]]
    places = [test.index(image) for image in shown]
    assert len(places) == 12 and places == sorted(set(places)) != list(range(12))
    assert found.directions.shape == (8, 5) and found.batch_size == 32
    assert torch.equal(other.images.pixels, found.images.pixels) and torch.equal(other.directions, found.directions)


# 4. Divergence and collapse


def test_a_network_that_diverged(watch, modules):
    with torch.no_grad():
        modules[1][0].weight[:] = math.nan
    found = watch(*modules)
    assert all(math.isfinite(found[name]) for name in NAMES[:4])
    assert not any(math.isfinite(found[name]) for name in [*NAMES[4:], "projection_epps_pulley"])


def test_a_network_that_collapsed(watch, modules):
    """Every image has the same projection, up to the rounding of float32, and one that is not 0."""
    with torch.no_grad():
        modules[1][-1].weight.mul_(1e-9)
        modules[1][-1].bias.fill_(3.0)
    found = watch(*modules)
    assert found["projection_rank"] == pytest.approx(1, abs=1e-4) and found["projection_std"] == 0
    assert found["embedding_rank"] > 1.5 and found["embedding_std"] > 0
    rows = [{"epoch": 1, "loss": 1.0, "wait_frac": 0.0, **found}]
    assert [alarm.name for alarm in alerts.raised(rows, Alarms(), num_epochs=9)] == ["collapse"]
