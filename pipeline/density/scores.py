"""Every score of some images of a data set: JEPA-SCORE of the encoder, trained and untrained, and its rivals.

Legend: N scored images, R training images of the encoder's home, D embedding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.distributed.devices import choose_autocast, choose_device
from pipeline.core.seeds import generator
from pipeline.data.loader import open_split, squares
from pipeline.data.packed import ImageBatch, PackedSplit, read_meta
from pipeline.data.views.multicrop import evaluation_view
from pipeline.density import baselines
from pipeline.density.encoders import Encoder
from pipeline.density.jepa_score import jepa_score, jepa_score_sketch
from pipeline.models.backbones import create_backbone, initial_backbone
from pipeline.models.features import RAW_PIXELS_PX, Reader, embeddings
from pipeline.models.weights import load_weights, read_description
from pipeline.runtime.bars import bar
from pipeline.schema.analysis import Density
from pipeline.schema.resolved_analyses import ScoreRun

FEWEST = 10  # images that are scored however much they cost: an area under a curve needs some
AT_A_TIME = 16  # images between two movements of the bar
SEED = 0  # of the drawing of images and of the sketch: every encoder scores the same images of a set


@dataclass(frozen=True)
class Reading:
    """How images are read and where they are scored.

    Attributes:
        load_px: largest side of images that are read whole, px.
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

    @classmethod
    def of(cls, run: ScoreRun, encoder: Encoder) -> Reading:
        """Read as the encoder was shown its training images."""
        loader, shown = run.execution.loader, encoder.shown
        return cls(
            load_px=shown.load_px,
            memory_gb=loader.memory_gb,
            num_workers=loader.num_workers,
            batch_size=shown.batch_size,
            device=choose_device(shown.device),
        )

    def split(self, folder: Path, split: str) -> ImageBatch | PackedSplit:
        """Open a split of a packed data set."""
        return open_split(folder, split, load_px=self.load_px, memory_gb=self.memory_gb)


def score_images(
    encoder: Encoder, home: Path, scored: Path, settings: Density, reading: Reading
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score random images of a test split, in float32.

    Args:
        encoder: found by `encoders.find_encoder`.
        home: the packed set whose training images distances are taken to.
        scored: the packed set whose test images are scored.
        settings: section `density` of params.yaml.
        reading: how and where.

    Returns:
        A row of `methods.COLUMNS` for each image, in the order of the split; what was made otherwise than asked for.

    Raises:
        UserError: a collapsed encoder.
    """
    told = read_description(encoder.weights, remedy="run the pipeline that trains it, or dvc repro models/dvc.yaml")
    architecture = told["backbone"], told["kwargs"]
    trained, untrained = create_backbone(*architecture), initial_backbone(*architecture, seed=encoder.seed)
    load_weights(encoder.weights, trained)
    view = {"size_px": told["img_size_px"], "mean": told["mean"], "std": told["std"]}
    images, reference = reading.split(scored, "test"), reading.split(home, "train")
    num_wanted, k = min(settings.num_images, len(images.labels)), min(settings.k, len(reference.labels))
    one = evaluation_view(_first(images, view["size_px"]), **view).to(reading.device)
    passes, forward = num_passes(trained.to(reading.device).eval().requires_grad_(False), one)
    plan = affordable(passes, forward, num_wanted, settings)
    notes = [*plan.notes, *([f"k = {k}, of all training images, in place of {settings.k}"] * (k < settings.k))]
    for note in notes:
        print(f"{encoder.name} on {scored.name}: {note}", file=sys.stderr)
    chosen = draw(len(images.labels), plan.num_images)
    columns = {
        **jepa_scores(trained, untrained, images, chosen, view, reading, settings.num_sketches, exact=plan.exact),
        **embedding_scores(trained, images, chosen, reference, view, reading, k),
        **pixel_scores(images, chosen, reference, told["img_size_px"], reading, k),
    }
    classes = read_meta(scored)["classes"]
    rows = [
        {"image": index, "label": label, "class": classes[label]}
        | {name: float(values[i]) for name, values in columns.items()}
        for i, (index, label) in enumerate(zip(chosen.tolist(), images.labels[chosen].tolist(), strict=True))
    ]
    return rows, notes


class Affordable(NamedTuple):
    """What the budget allows: the exact score or its sketch, of how many images, and what to say of it."""

    exact: bool
    num_images: int
    notes: tuple[str, ...]


def affordable(passes: int, forward: float, num_images: int, settings: Density) -> Affordable:
    """Weigh the exact score of the trained and the untrained encoder against `density.max_tflop`.

    The operations are counted, on one image, not timed: the same settings give the same scores on every machine. A pass
    forward and back, towards the pixels alone, takes twice the operations of a forward pass.

    Args:
        passes, forward: of `num_passes`.
        num_images: as many as are wanted.
        settings: section `density` of params.yaml.
    """
    exact, sketch = (2 * 2 * forward * num / 1e12 for num in (passes, min(passes, settings.num_sketches + 2)))
    if num_images * (exact + sketch / 2) <= settings.max_tflop:
        return Affordable(True, num_images, ())
    told = f"the sketch of {settings.num_sketches} rows stands in for the exact score, which would take "
    told += f"{num_images * exact:,.0f} TFLOP (density.max_tflop = {settings.max_tflop:g})"
    if num_images * sketch <= settings.max_tflop:
        return Affordable(False, num_images, (told,))
    num_fewer = min(num_images, max(FEWEST, int(settings.max_tflop / sketch)))
    return Affordable(False, num_fewer, (told, f"{num_fewer} images are scored in place of {num_images}"))


def num_passes(encoder: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return how many passes the Jacobian of one image takes, and the operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        embedding = encoder(image)
    return min(embedding.numel(), image.numel()), counter.get_total_flops()


def _first(images: ImageBatch | PackedSplit, size_px: int) -> Tensor:
    return next(squares(images, torch.zeros(1, dtype=torch.long), 1, size_px)).pixels


def draw(num_images: int, num_wanted: int) -> Tensor:
    """Draw images without replacement, all if there are no more; returns their indices in rising order."""
    return torch.randperm(num_images, generator=generator(SEED, "density"))[:num_wanted].sort().values


def jepa_scores(
    trained: nn.Module,
    untrained: nn.Module,
    images: ImageBatch | PackedSplit,
    chosen: Tensor,
    view: dict[str, Any],
    reading: Reading,
    num_sketches: int,
    *,
    exact: bool = True,
) -> dict[str, Tensor]:
    """Return JEPA-SCORE (N,) of the chosen images, its sketch, and JEPA-SCORE before training.

    Without `exact` the sketch stands in for all three.
    """
    for network in (trained, untrained):
        network.to(reading.device).eval().requires_grad_(False)
    sketch = partial(jepa_score_sketch, num_sketches=num_sketches, seed=SEED)
    scorers = {
        "jepa_score": partial(jepa_score if exact else sketch, trained),
        "jepa_score_sketch": partial(sketch, trained),
        "random_init_jepa_score": partial(jepa_score if exact else sketch, untrained),
    }
    found: dict[str, list[Tensor]] = {name: [] for name in scorers}
    size = min(reading.batch_size, AT_A_TIME)
    loading = {"num_workers": reading.num_workers, "device": reading.device}
    with bar("JEPA-SCORE", len(chosen)) as shown:
        for batch in squares(images, chosen, size, view["size_px"], **loading):
            views = evaluation_view(batch.pixels, **view)
            for name, score in scorers.items():
                found[name].append(score(views).cpu())
            shown.update(len(views))
    return {name: torch.cat(parts) for name, parts in found.items()}


def embedding_scores(
    network: nn.Module,
    images: ImageBatch | PackedSplit,
    chosen: Tensor,
    reference: ImageBatch | PackedSplit,
    view: dict[str, Any],
    reading: Reading,
    k: int,
) -> dict[str, Tensor]:
    """Return what the embeddings (N, D) say beside the training embeddings (R, D); one column alone uses labels."""
    how = {"num_workers": reading.num_workers, "device": reading.device}
    autocast = choose_autocast("float32", reading.device)
    reader = Reader(**view, batch_size=reading.batch_size, autocast=autocast, **how)
    known, seen = embeddings(network, reference, reader), embeddings(network, images, reader, members=chosen)
    return {
        "knn_distance": baselines.knn_distance(seen, known, k),
        "mahalanobis": baselines.fit_gaussian(known).distance(seen),
        "relative_mahalanobis": baselines.relative_mahalanobis(seen, known, reference.labels),
        "embedding_norm": seen.double().norm(dim=1),
    }


def pixel_scores(
    images: ImageBatch | PackedSplit,
    chosen: Tensor,
    reference: ImageBatch | PackedSplit,
    size_px: int,
    reading: Reading,
    k: int,
) -> dict[str, Tensor]:
    """Return what the pixels in [0, 1] of the view say, shrunk to RAW_PIXELS_PX, without any network."""

    def pixels(of: ImageBatch | PackedSplit, order: Tensor) -> Iterator[Tensor]:
        side = min(size_px, RAW_PIXELS_PX)
        for batch in squares(of, order, reading.batch_size, side, num_workers=reading.num_workers):
            view = evaluation_view(batch.pixels, side, mean=(0.0,) * 3, std=(1.0,) * 3)
            yield view.flatten(1).double()

    known_means = []

    def known() -> Iterator[Tensor]:
        for block in pixels(reference, torch.arange(len(reference.labels))):
            known_means.append(block.mean(1))
            yield block

    seen = torch.cat(list(pixels(images, chosen)))
    distance = baselines.nearest_distance(seen, known(), k)
    means = seen.mean(1)
    return {
        "pixel_knn_distance": distance,
        "pixel_mean_distance": (means - torch.cat(known_means).mean()).abs(),
        "pixel_mean": means,
    }
