"""Representation metrics of a finished cell on test images, and label-free criteria: health.json.

The images, augmented views and directions are drawn from a fixed seed, the same for every cell, so that cells of one
data set differ by their models alone.

Legend: N images, D dimensions of embedding or projection, S slices, n images of q views each for LiDAR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.core.float64 import doubled
from pipeline.core.seeds import generator
from pipeline.data.loader import batches, views_of
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.photographs import RandomCut
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses import spectrum
from pipeline.losses.lejepa import epps_pulley, random_directions
from pipeline.losses.objective import RunObjective, build_objective
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector, project_views
from pipeline.models.weights import load_weights, read_description
from pipeline.runtime.bars import DELAY_S, bar
from pipeline.schema.probe import Health
from pipeline.schema.resolved import TrainedWith

Images = ImageBatch | PackedSplit

DRAWS_SEED = 0
HELD_OUT = ("loss", "pred_loss", "sigreg_loss")  # what is known to tell runs apart; other parts are an objective's own
# Draws of the null distribution; its 0.95 quantile is then known to about 2 % (measured: tests/probing/test_health.py).
NUM_NULL_DRAWS = 2048


class Trained(NamedTuple):
    """What a cell that was trained here has beside its backbone.

    projector: (M, D) -> (M, K). objective: (projections (V, B, K), step) -> loss and parts; None where projections do
    not suffice for them. batch_size: B of training,
    which the Epps-Pulley statistic depends on. make_views: those of training.
    """

    projector: nn.Module
    objective: RunObjective | None
    batch_size: int
    make_views: Multicrop


def load_trained(path: Path, make_views: Multicrop, settings: TrainedWith, *, lamb: float) -> Trained:
    """Load a projector that pretraining wrote, with the objective it was trained by.

    Args:
        path: projector.safetensors, which says itself how it is built.
        make_views: the views of training.
        settings: batch size and objective of training.
        lamb: lambda.

    Raises:
        UserError: if there is no such file, or pretraining did not write it.
    """
    description = read_description(path, remedy="run: dvc repro")
    projector = make_projector(**description)
    load_weights(path, projector)
    shape: dict[str, Any] = {"lamb": lamb, "num_global": make_views.num_global, "seed": DRAWS_SEED}
    run = build_objective(settings.objective, settings.objective_settings, **shape)
    measurable = run if run.objective.needs_projections_alone else None
    return Trained(projector, measurable, settings.batch_size, make_views)


class Null(NamedTuple):
    """Epps-Pulley statistics (R,) of N normal samples: as they are, and standardised."""

    raw: Tensor
    standardised: Tensor


def report(
    backbone: nn.Module,
    images: Images,
    settings: Health,
    *,
    views: Multicrop,
    reader: Reader,
    trained: Trained | None,
) -> dict[str, Any]:
    """Return the contents of health.json.

    Args:
        backbone: (B, 3, H, W) -> (B, D).
        images: test split.
        settings: the section `probe.health`: N, S, n and q; a smaller split gives all of its images.
        views: those of training; the global ones are LiDAR's.
        reader: as for `features.embeddings`.
        trained: projector and objective; None for a frozen model.

    Returns:
        num_images, embedding, projection (of a trained cell) as `describe` has them, and criteria: {name: number}.
        A number that is not finite is None. A test split smaller than a batch of training has no heldout_* criteria.
    """
    members, num_slices = some_images(images, settings.num_images), settings.num_slices
    embedding = embeddings(backbone, images, reader, members=members)
    augmented = augmented_embeddings(backbone, images, views, settings, reader)
    null = epps_pulley_null(len(members))
    of_embedding = describe(embedding, num_slices, null)
    eigenvalues = torch.tensor(of_embedding["spectrum"], dtype=torch.float64)
    found = {"num_images": len(members), "embedding": of_embedding}
    criteria = {
        "rankme": of_embedding["effective_rank"],
        "alpha_req": spectrum.alpha_req(eigenvalues),
        "stable_rank": spectrum.stable_rank(eigenvalues),
        "isotropy": of_embedding["isotropy"],
        "mean_cosine": of_embedding["mean_cosine"],
        "lidar": spectrum.lidar(augmented),
    }
    if trained:
        project = _projection(trained.projector, reader.device)
        of_projection = describe(project(embedding), num_slices, null)
        found["projection"] = of_projection
        criteria |= {
            "projection_rankme": of_projection["effective_rank"],
            "projection_isotropy": of_projection["isotropy"],
            "projection_lidar": spectrum.lidar(project(augmented)),
            "projection_epps_pulley": of_projection["epps_pulley"]["raw"]["mean"],
        }
        losses = heldout_losses(backbone, images, trained, members, reader)
        criteria |= {f"heldout_{name}": value for name, value in losses.items()}
    return plain({**found, "criteria": criteria})


def describe(samples: Tensor, num_slices: int, null: Null) -> dict[str, Any]:
    """Describe embeddings or projections of images.

    Args:
        samples: (N, D), N >= 2.
        num_slices: S directions of the Epps-Pulley statistic, fixed for each D.
        null: of the same N.

    Returns:
        dim, mean_norm, std_norm (over images), effective_rank (RankMe), isotropy, mean_cosine, spectrum (eigenvalues of
        the covariance, falling; those beyond min(N, D) are 0) and epps_pulley: "raw" against N(0, 1) and
        "standardised", the shape alone, each with its values a slice and their null distribution.
    """
    directions = random_directions(
        samples.shape[1], num_slices, generator=generator(DRAWS_SEED, "health directions", samples.shape[1])
    )
    norms = spectrum.norms(samples)
    as_it_is = spectrum.slice_epps_pulley(samples, directions)
    shape_alone = spectrum.slice_epps_pulley(samples, directions, standardised=True)
    return {
        "dim": samples.shape[1],
        "mean_norm": float(norms.mean()),
        "std_norm": float(norms.std()),
        "effective_rank": spectrum.effective_rank(spectrum.singular_values(samples)),
        "isotropy": spectrum.isotropy(samples),
        "mean_cosine": spectrum.mean_cosine(samples),
        "spectrum": spectrum.covariance_eigenvalues(samples).tolist(),
        "epps_pulley": {"raw": _against(as_it_is, null.raw), "standardised": _against(shape_alone, null.standardised)},
    }


def _against(values: Tensor, null: Tensor) -> dict[str, Any]:
    threshold = float(null.quantile(0.95))
    above = (values > threshold).double().mean() if values.isfinite().all() else math.nan
    return {
        "values": values.tolist(),
        "mean": float(values.mean()),
        "null_mean": float(null.mean()),
        "null_sd": float(null.std()),
        "null_q95": threshold,
        "share_above": float(above),
    }


def epps_pulley_null(num_images: int) -> Null:
    """Simulate the Epps-Pulley statistic of N independent standard normal samples.

    A slice of N(0, I) along a fixed direction is such a sample, so under normality the share of slices above the 0.95
    quantile is 0.05 on average. (Slices of one embedding depend on each other, so the share itself varies more than
    that of independent tests.) Standardised samples have a smaller statistic: mean and variance are fitted.

    Args:
        num_images: N >= 2.
    """
    draws = generator(DRAWS_SEED, "health null")
    found = Null(torch.empty(NUM_NULL_DRAWS), torch.empty(NUM_NULL_DRAWS))
    chunk = max(1, 2**22 // num_images)  # bounded memory, however many images
    for start in range(0, NUM_NULL_DRAWS, chunk):
        part = slice(start, min(start + chunk, NUM_NULL_DRAWS))
        samples = torch.randn(num_images, part.stop - part.start, generator=draws)
        found.raw[part] = epps_pulley(samples)
        found.standardised[part] = epps_pulley(spectrum.standardise(samples))
    return found


def some_images(images: Images, num_images: int) -> Tensor:
    """Return indices of so many images, rising, the same for every cell; all of a smaller split."""
    order = torch.randperm(len(images.labels), generator=generator(DRAWS_SEED, "health images"))
    return order[:num_images].sort().values


@torch.inference_mode()
def augmented_embeddings(
    backbone: nn.Module, images: Images, views: Multicrop, settings: Health, reader: Reader
) -> Tensor:
    """Embed augmented global views of some images.

    Args:
        backbone: (B, 3, H, W) -> (B, D).
        images: test split.
        views: tells what a global view is.
        settings: n images, q views.
        reader: as for `report`; a forward pass takes about batch_size views.

    Returns:
        (n, q, D) float32 on the CPU.
    """
    members, num_views = some_images(images, settings.lidar_images), settings.lidar_views
    make_views = replace(views, num_global=num_views, num_local=0)
    size = max(1, reader.batch_size // num_views)
    backbone.to(reader.device).eval()
    out = []
    cut = RandomCut(make_views, DRAWS_SEED, "health crops")
    parts = batches(images, members, size, cut=cut, num_workers=reader.num_workers, device=reader.device)
    num_parts = -(-len(members) // size)
    shown = bar("views for LiDAR", num_parts, unit="batch", delay_s=DELAY_S, iterable=parts)
    for index, batch in enumerate(shown):
        draws = generator(DRAWS_SEED, "health views", index, device=reader.device)
        seen, _ = views_of(batch, make_views, generator=draws)
        with reader.autocast:
            embedding = backbone(seen.flatten(0, 1))
        out.append(embedding.float().unflatten(0, seen.shape[:2]).transpose(0, 1).cpu())
    return torch.cat(out)


@torch.inference_mode()
def heldout_losses(
    backbone: nn.Module, images: Images, trained: Trained, members: Tensor, reader: Reader
) -> dict[str, float]:
    """Return the loss and its parts on test images: the run's own objective and views, in evaluation mode.

    Args:
        backbone: (M, 3, H, W) -> (M, D).
        images: test split.
        trained: projector, objective, views and batch size; only losses at equal batch sizes compare.
        members: (N,) indices of the images; where they are fewer than a batch, others fill one up.
        reader: as for `report`.

    Returns:
        The loss, pred_loss and sigreg_loss if the objective has them, means over whole batches; nothing if the split
        is smaller than a batch, or projections do not suffice for the objective.
    """
    if trained.objective is None:
        return {}
    if len(members) < trained.batch_size:
        members = some_images(images, trained.batch_size)
    device, modules = reader.device, (backbone, trained.projector)
    for module in modules:
        module.to(device).eval()
    order = members[torch.randperm(len(members), generator=generator(DRAWS_SEED, "health order"))]
    cut = RandomCut(trained.make_views, DRAWS_SEED, "health loss crops")
    how: dict[str, Any] = {"cut": cut, "num_workers": reader.num_workers, "device": device, "drop_last": True}
    names, losses = list[str](), []
    for index, batch in enumerate(batches(images, order, trained.batch_size, **how)):
        draws = generator(DRAWS_SEED, "health losses", index, device=device)
        views = views_of(batch, trained.make_views, generator=draws)
        with reader.autocast:
            projections = project_views(*modules, [group for group in views if group is not None])
        found = trained.objective(projections, index)
        names = [name for name in HELD_OUT if name in found]
        losses.append(doubled(torch.stack([found[name] for name in names])))
    return dict(zip(names, torch.stack(losses).mean(0).tolist(), strict=True)) if losses else {}


def _projection(projector: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the function from embeddings (..., D) to projections (..., K), both on the CPU."""
    projector.to(device).eval()

    @torch.inference_mode()
    def project(samples: Tensor) -> Tensor:
        return projector(samples.to(device).flatten(0, -2)).float().unflatten(0, samples.shape[:-1]).cpu()

    return project


def plain(value: Any) -> Any:
    """Return what JSON can hold: None for numbers that are not finite, seven digits of the numbers in lists."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(float(f"{item:.7g}")) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
