"""Every score of some images of a data set: JEPA-SCORE of the encoder, trained and untrained, and its rivals.

Legend: N scored images, R training images of the encoder's home, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones import create_backbone, initial_backbone
from pipeline.checkpoint import load_weights, read_description
from pipeline.datasets import batches, open_split
from pipeline.density import jepa_score, jepa_score_sketch
from pipeline.devices import choose_autocast
from pipeline.encoded import EncodedImages, ImageBatch, read_meta
from pipeline.features import RAW_PIXELS_PX, embeddings
from pipeline.schema_analysis import Density
from pipeline.seeds import generator
from pipeline.typicality import novelty
from pipeline.typicality.encoders import Encoder
from pipeline.views import evaluation_view

SEED = 0  # of the drawing of images and of the sketch: every encoder scores the same images of a set


@dataclass(frozen=True)
class Reading:
    """How images are read and where they are scored.

    Attributes:
        load_px: side of the canvas that larger images are resized to, px.
        memory_gb: a split up to this size is kept in memory.
        num_workers: decoding processes of larger sets.
        batch_size: images a forward pass.
        device: where the encoder runs.
    """

    load_px: int
    memory_gb: float
    num_workers: int
    batch_size: int
    device: torch.device

    def split(self, dataset: str, split: str) -> ImageBatch | EncodedImages:
        """Open a split of data/<dataset>."""
        return open_split(Path("data") / dataset, split, load_px=self.load_px, memory_gb=self.memory_gb)


def score_images(encoder: Encoder, scored: str, settings: Density, reading: Reading) -> list[dict[str, Any]]:
    """Score random images of a test split, in float32.

    Args:
        encoder: found by `encoders.find_encoder`.
        scored: data set whose test images are scored.
        settings: section `density` of params.yaml.
        reading: how and where.

    Returns:
        A row of `methods.COLUMNS` for each image, in the order of the split.

    Raises:
        UserError: k above the number of training images, or a collapsed encoder.
    """
    told = read_description(encoder.weights, remedy="run the pipeline that trains it, or dvc repro models/dvc.yaml")
    architecture = told["backbone"], told["kwargs"]
    trained, untrained = create_backbone(*architecture), initial_backbone(*architecture, seed=encoder.seed)
    load_weights(encoder.weights, trained)
    view = {"size_px": told["img_size_px"], "mean": told["mean"], "std": told["std"]}
    images, reference = reading.split(scored, "test"), reading.split(encoder.home, "train")
    chosen = draw(len(images.labels), settings.num_images)
    columns = {
        **jepa_scores(trained, untrained, images, chosen, view, reading, settings.num_sketches),
        **embedding_scores(trained, images, chosen, reference, view, reading, settings.k),
        **pixel_scores(images, chosen, reference, told["img_size_px"], reading, settings.k),
    }
    classes = read_meta(Path("data") / scored)["classes"]
    return [
        {"image": index, "label": label, "class": classes[label]}
        | {name: float(values[i]) for name, values in columns.items()}
        for i, (index, label) in enumerate(zip(chosen.tolist(), images.labels[chosen].tolist(), strict=True))
    ]


def draw(num_images: int, num_wanted: int) -> Tensor:
    """Draw images without replacement, all if there are no more; returns their indices in rising order."""
    return torch.randperm(num_images, generator=generator(SEED, "density"))[:num_wanted].sort().values


def jepa_scores(
    trained: nn.Module,
    untrained: nn.Module,
    images: ImageBatch | EncodedImages,
    chosen: Tensor,
    view: dict[str, Any],
    reading: Reading,
    num_sketches: int,
) -> dict[str, Tensor]:
    """Return the exact JEPA-SCORE (N,) of the chosen images and its sketch, and the exact one before training."""
    for network in (trained, untrained):
        network.to(reading.device).eval().requires_grad_(False)
    scorers = {
        "jepa_score": partial(jepa_score, trained),
        "jepa_score_sketch": partial(jepa_score_sketch, trained, num_sketches=num_sketches, seed=SEED),
        "random_init_jepa_score": partial(jepa_score, untrained),
    }
    found: dict[str, list[Tensor]] = {name: [] for name in scorers}
    for batch in batches(images, chosen, reading.batch_size, num_workers=reading.num_workers, device=reading.device):
        views = evaluation_view(batch.pixels, batch.aspect, **view)
        for name, score in scorers.items():
            found[name].append(score(views).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def embedding_scores(
    network: nn.Module,
    images: ImageBatch | EncodedImages,
    chosen: Tensor,
    reference: ImageBatch | EncodedImages,
    view: dict[str, Any],
    reading: Reading,
    k: int,
) -> dict[str, Tensor]:
    """Return what the embeddings (N, D) say beside the training embeddings (R, D); one column alone uses labels."""
    how = {
        **view,
        "batch_size": reading.batch_size,
        "num_workers": reading.num_workers,
        "device": reading.device,
        "autocast": choose_autocast("float32", reading.device),
    }
    known, seen = embeddings(network, reference, **how), embeddings(network, images, members=chosen, **how)
    return {
        "knn_distance": novelty.knn_distance(seen, known, k),
        "mahalanobis": novelty.fit_gaussian(known).distance(seen),
        "relative_mahalanobis": novelty.relative_mahalanobis(seen, known, reference.labels),
        "embedding_norm": seen.double().norm(dim=1),
    }


def pixel_scores(
    images: ImageBatch | EncodedImages,
    chosen: Tensor,
    reference: ImageBatch | EncodedImages,
    size_px: int,
    reading: Reading,
    k: int,
) -> dict[str, Tensor]:
    """Return what the pixels in [0, 1] of the view say, shrunk to RAW_PIXELS_PX, without any network."""

    def pixels(of: ImageBatch | EncodedImages, order: Tensor) -> Iterator[Tensor]:
        side = min(size_px, RAW_PIXELS_PX)
        for batch in batches(of, order, reading.batch_size, num_workers=reading.num_workers):
            view = evaluation_view(batch.pixels, batch.aspect, side, mean=(0.0,) * 3, std=(1.0,) * 3)
            yield view.flatten(1).double()

    known_means = []

    def known() -> Iterator[Tensor]:
        for block in pixels(reference, torch.arange(len(reference.labels))):
            known_means.append(block.mean(1))
            yield block

    seen = torch.cat(list(pixels(images, chosen)))
    distance = novelty.nearest_distance(seen, known(), k)
    means = seen.mean(1)
    return {
        "pixel_knn_distance": distance,
        "pixel_mean_distance": (means - torch.cat(known_means).mean()).abs(),
        "pixel_mean": means,
    }
