"""Features for probes, extracted once: frozen-backbone embeddings and raw pixels.

Legend: N images, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.datasets import EncodedImages, ImageBatch, batches
from pipeline.views import evaluation_view

# Raw pixels are shrunk to at most this side: at 224 px they would have 150,528 dimensions.
RAW_PIXELS_PX = 32


@torch.inference_mode()
def embeddings(
    backbone: nn.Module,
    images: ImageBatch | EncodedImages,
    *,
    size_px: int,
    mean: list[float],
    std: list[float],
    batch_size: int,
    num_workers: int,
    device: torch.device,
    autocast: torch.autocast,
) -> Tensor:
    """Return the backbone's output for every image, in order; the backbone is left in the mode it came in.

    Args:
        backbone: (B, 3, size_px, size_px) -> (B, D).
        images: a split.
        size_px: side of the centre crop that the backbone sees, px.
        mean: of the pixels in [0, 1], per channel.
        std: of the pixels in [0, 1], per channel.
        batch_size: images a forward pass; part of the result's last bits.
        num_workers: decoding processes for images that are not in memory.
        device: where the backbone runs.
        autocast: precision context.

    Returns:
        (N, D) float32 on the CPU.
    """
    was_training = backbone.training
    backbone.to(device).eval()
    everything = torch.arange(len(images.labels))
    out = []
    for batch in batches(images, everything, batch_size, num_workers=num_workers, device=device):
        view = evaluation_view(batch.pixels, batch.aspect, size_px=size_px, mean=mean, std=std)
        with autocast:
            out.append(backbone(view).float())
    backbone.train(was_training)
    return torch.cat(out).cpu()


def raw_pixels(images: ImageBatch | EncodedImages, *, size_px: int, batch_size: int, num_workers: int) -> Tensor:
    """Return the pixels of the same centre crop as features.

    Args:
        images: a split with C channels.
        size_px: side of the crop, px; at most RAW_PIXELS_PX is used.
        batch_size: images at a time.
        num_workers: decoding processes for images that are not in memory.

    Returns:
        (N, C * side * side) float32 in [0, 1].
    """
    side = min(size_px, RAW_PIXELS_PX)
    everything = torch.arange(len(images.labels))
    out = []
    for batch in batches(images, everything, batch_size, num_workers=num_workers, device="cpu"):
        view = evaluation_view(batch.pixels, batch.aspect, size_px=side, mean=[0.0] * 3, std=[1.0] * 3)
        out.append(view[:, : batch.pixels.shape[1]].flatten(1))
    return torch.cat(out)
