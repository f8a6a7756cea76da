"""Claims about health.json:

1. The null distribution of Epps-Pulley is that of fresh normal samples, standardised or not.
2. A description holds the facts of pipeline.losses.spectrum.
3. LiDAR's views are global ones, each image's together; the held-out loss is the run's own objective on test images
   at the batch size of training.
4. The report needs no labels, has the same bits whatever the global random state, and changes no weight; a frozen model
   has no projection.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.seeds import generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses import spectrum
from pipeline.losses.lejepa import directions_for_step, epps_pulley, lejepa_loss
from pipeline.models.backbones import initial_backbone
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector
from pipeline.models.weights import save_weights
from pipeline.probing import health
from pipeline.schema.probe import Health
from pipeline.schema.resolved import TrainedWith

pytestmark = pytest.mark.seconds

CPU = torch.device("cpu")
READER = Reader(16, [0.5] * 3, [0.25] * 3, 32, num_workers=0, device=CPU, autocast=choose_autocast("float32", CPU))
VIEWS = Multicrop(num_global=2, num_local=1, global_px=16, local_px=8, flip_prob=0, mean=[0.5] * 3, std=[0.25] * 3)
SETTINGS = Health(num_images=40, num_slices=24, lidar_images=20, lidar_views=4)
LAMB, PROJ_DIM, BATCH_SIZE = 0.1, 6, 16
TRAINING = TrainedWith(batch_size=BATCH_SIZE, objective="lejepa", objective_settings={"num_slices": 16})


def digits(num: int = 50) -> ImageBatch:
    pixels = torch.from_numpy((load_digits().images[:num] * 15.9).astype("uint8"))[:, None]
    return ImageBatch(pixels, torch.arange(num) % 10)


@pytest.fixture
def backbone() -> nn.Module:
    return initial_backbone("test_byobnet", {}, seed=0)


@pytest.fixture
def trained(backbone, tmp_path) -> health.Trained:
    shape = {"width": backbone.num_features, "hidden_dims": [16], "proj_dim": PROJ_DIM, "embed_dim": None}
    torch.manual_seed(0)
    save_weights(tmp_path / "projector.safetensors", make_projector(**shape), shape)
    return health.load_trained(tmp_path / "projector.safetensors", VIEWS, TRAINING, lamb=LAMB)


def report(backbone, trained, images=None, **changes) -> dict:
    images = images or digits()
    settings = SETTINGS.model_copy(update=changes)
    return health.report(backbone, images, settings, views=VIEWS, reader=READER, trained=trained)


def lidar_of(num_images: int, num_views: int) -> Health:
    return SETTINGS.model_copy(update={"lidar_images": num_images, "lidar_views": num_views})


# 1. The null distribution


def test_null_is_that_of_fresh_samples():
    num_images = 100
    null = health.epps_pulley_null(num_images)
    fresh = torch.randn(num_images, 2000, generator=generator(0, "test"))
    for found, statistics in (
        (null.raw, epps_pulley(fresh)),
        (null.standardised, epps_pulley(spectrum.standardise(fresh))),
    ):
        assert found.isfinite().all() and found.shape == (health.NUM_NULL_DRAWS,)
        assert found.mean() == pytest.approx(statistics.mean().item(), rel=0.06)
        assert found.std() == pytest.approx(statistics.std().item(), rel=0.12)
        assert (statistics > found.quantile(0.95)).double().mean() == pytest.approx(0.05, abs=0.015)
    assert null.raw.mean() == pytest.approx(1.0527, rel=0.05) and null.standardised.mean() < 0.4 * null.raw.mean()
    assert torch.equal(health.epps_pulley_null(num_images).raw, null.raw)


# 2. Description


def test_a_description_holds_the_facts():
    z = torch.randn(60, 12, generator=generator(0, "test")) * torch.linspace(0.1, 2, 12) + 0.3
    null = health.epps_pulley_null(60)
    found = health.describe(z, 10, null)
    norms = z.double().norm(dim=1)
    assert found["dim"] == 12 and found["mean_norm"] == pytest.approx(norms.mean().item())
    assert found["std_norm"] == pytest.approx(norms.std().item())
    assert found["effective_rank"] == pytest.approx(spectrum.effective_rank(torch.linalg.svdvals(z.double())))
    assert found["isotropy"] == spectrum.isotropy(z) and found["mean_cosine"] == spectrum.mean_cosine(z)
    assert sum(found["spectrum"]) == pytest.approx(z.double().var(0, unbiased=False).sum().item())
    for kind, values in (("raw", null.raw), ("standardised", null.standardised)):
        facts = found["epps_pulley"][kind]
        assert len(facts["values"]) == 10 and facts["mean"] == pytest.approx(sum(facts["values"]) / 10)
        assert (facts["null_mean"], facts["null_sd"]) == (values.mean().item(), values.std().item())
        assert facts["null_q95"] == pytest.approx(values.quantile(0.95).item())
        assert facts["share_above"] == sum(value > facts["null_q95"] for value in facts["values"]) / 10


# 3. Views and held-out losses


class MeanPixel(nn.Module):
    """'Embeds' an image as its mean and its width."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([pixels.mean((1, 2, 3)), torch.full((len(pixels),), float(pixels.shape[-1]))], 1)


def test_views_of_an_image_stay_together():
    grey = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(30, 1, 8, 8) * 8
    images = ImageBatch(grey.contiguous(), torch.zeros(30, dtype=torch.int64))
    plain = replace(VIEWS, jitter_prob=0, grey_prob=0, blur_prob=0, solarize_prob=0)
    found = health.augmented_embeddings(MeanPixel(), images, plain, lidar_of(12, 5), replace(READER, batch_size=16))
    members = health.some_images(images, 12)
    assert (
        found.shape == (12, 5, 2) and members.tolist() == sorted(set(members.tolist())) and (found[..., 1] == 16).all()
    )
    torch.testing.assert_close(found[..., 0], ((members * 8 / 255 - 0.5) / 0.25).float()[:, None].expand(12, 5))
    alike = images._replace(pixels=torch.full_like(images.pixels, 90))
    shaken = health.augmented_embeddings(MeanPixel(), alike, replace(VIEWS, jitter_prob=1), lidar_of(12, 5), READER)
    assert len(shaken[..., 0].unique()) > 50  # every view of every image is drawn anew, of all batches
    assert len(health.augmented_embeddings(MeanPixel(), images, plain, lidar_of(99, 2), READER)) == 30


def test_heldout_losses_are_the_objective_on_test_images(backbone, trained):
    images, members = digits(), torch.arange(3, 40)
    found = health.heldout_losses(backbone.train(), images, trained, members, READER)
    order = members[torch.randperm(37, generator=generator(0, "health order"))]
    backbone.eval(), trained.projector.eval()
    losses = []
    for step, batch in enumerate(batches(images, order[:32], BATCH_SIZE)):
        large, small = VIEWS(batch.pixels, generator=generator(0, "health losses", step))
        with torch.no_grad():
            z = torch.stack([trained.projector(backbone(view)) for group in (large, small) for view in group])
        losses.append(lejepa_loss(z, directions_for_step(0, step, PROJ_DIM, 16), num_global=2, lamb=LAMB))
    wanted = [sum(float(part) for part in parts) / 2 for parts in zip(*losses, strict=True)]
    assert len(losses) == 2 and list(found) == ["loss", "pred_loss", "sigreg_loss"]
    assert list(found.values()) == pytest.approx(wanted, rel=1e-4)


# 4. The report

OF_EMBEDDING = ["rankme", "alpha_req", "stable_rank", "isotropy", "mean_cosine", "lidar"]
OF_PROJECTION = ["projection_rankme", "projection_isotropy", "projection_lidar", "projection_epps_pulley"]
HELDOUT = ["heldout_loss", "heldout_pred_loss", "heldout_sigreg_loss"]


def test_the_report_of_a_trained_cell(backbone, trained):
    found = report(backbone, trained)
    assert list(found) == ["num_images", "embedding", "projection", "criteria"] and found["num_images"] == 40
    criteria = found["criteria"]
    assert list(criteria) == [*OF_EMBEDDING, *OF_PROJECTION, *HELDOUT]
    assert all(isinstance(value, float) for value in criteria.values())
    weighed = (1 - LAMB) * criteria["heldout_pred_loss"] + LAMB * criteria["heldout_sigreg_loss"]
    assert criteria["heldout_loss"] == pytest.approx(weighed, rel=1e-5)
    z = embeddings(backbone, digits(), READER, members=health.some_images(digits(), 40))
    assert criteria["rankme"] == spectrum.effective_rank(spectrum.singular_values(z))
    with torch.no_grad():
        p = trained.projector.eval()(z)
    assert found["projection"]["dim"] == PROJ_DIM and criteria["projection_isotropy"] == spectrum.isotropy(p)
    views = health.augmented_embeddings(backbone, digits(), VIEWS, SETTINGS, READER)
    assert criteria["lidar"] == spectrum.lidar(views)


def test_a_frozen_model_has_no_projection(backbone, trained):
    found, whole = report(backbone, None), report(backbone, trained)
    assert list(found) == ["num_images", "embedding", "criteria"] and list(found["criteria"]) == OF_EMBEDDING
    assert found["embedding"] == whole["embedding"]
    assert all(whole["criteria"][name] == value for name, value in found["criteria"].items())


def test_the_report_is_the_same_without_labels_and_at_any_time(backbone, trained):
    modules = [backbone, trained.projector]
    before = copy.deepcopy([module.state_dict() for module in modules])
    found = report(backbone, trained)
    torch.manual_seed(9)
    assert report(backbone, trained, digits()._replace(labels=torch.full((50,), -1))) == found
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert report(backbone, trained, num_images=30) != found
