"""Features for probes, extracted once: frozen-backbone embeddings at a probe site, and raw pixels.

Legend: B images of a batch, N images of a split, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.loader import squares
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.views.multicrop import evaluation_view
from pipeline.models.sites import site_extractor
from pipeline.runtime.bars import DELAY_S, bar

# Raw pixels are shrunk to at most this side: at 224 px they would have 150,528 dimensions.
RAW_PIXELS_PX = 32


@dataclass(frozen=True)
class Reader:
    """How a frozen backbone is shown images.

    Attributes:
        size_px: side of the centre crop that it sees, px.
        mean, std: of the pixels in [0, 1], per channel.
        batch_size: images a forward pass; part of the result's last bits.
        num_workers: decoding processes for images that are not in memory.
        device: where it runs.
        autocast: precision context.
    """

    size_px: int
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    num_workers: int
    device: torch.device
    autocast: torch.autocast


@torch.inference_mode()
def embeddings(
    backbone: nn.Module,
    images: ImageBatch | PackedSplit,
    reader: Reader,
    *,
    site: str = "pooled",
    members: Tensor | None = None,
) -> Tensor:
    """Return the features of every image, in order; the backbone is left in the mode it came in.

    Args:
        backbone: (B, 3, size_px, size_px) -> (B, D).
        images: a split.
        reader: what it is shown, and where it runs.
        site: as for `site_extractor`.
        members: (M,) int64 indices, to take these images alone.

    Returns:
        (N, D) or (M, D) float32 on the CPU.
    """
    was_training = backbone.training
    backbone.to(reader.device).eval()
    extract = site_extractor(backbone, site)
    order = torch.arange(len(images.labels)) if members is None else members
    how = {"num_workers": reader.num_workers, "device": reader.device}
    out = []
    with bar("features", len(order), delay_s=DELAY_S) as told:
        for batch in squares(images, order, reader.batch_size, reader.size_px, **how):
            view = evaluation_view(batch.pixels, size_px=reader.size_px, mean=reader.mean, std=reader.std)
            with reader.autocast:
                out.append(extract(view).float())
            told.update(len(view))
    backbone.train(was_training)
    return torch.cat(out).cpu()


def raw_pixels(images: ImageBatch | PackedSplit, reader: Reader) -> Tensor:
    """Return the pixels of the same centre crop as features.

    Args:
        images: a split with C channels.
        reader: its size_px, of which at most RAW_PIXELS_PX are used, batch_size and num_workers.

    Returns:
        (N, C * side * side) float32 in [0, 1].
    """
    side = min(reader.size_px, RAW_PIXELS_PX)
    everything = torch.arange(len(images.labels))
    out = []
    with bar("raw pixels", len(everything), delay_s=DELAY_S) as told:
        for batch in squares(images, everything, reader.batch_size, side, num_workers=reader.num_workers):
            view = evaluation_view(batch.pixels, size_px=side, mean=[0.0] * 3, std=[1.0] * 3)
            out.append(view[:, : batch.pixels.shape[1]].flatten(1))
            told.update(len(view))
    return torch.cat(out)
