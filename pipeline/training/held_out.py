"""Held-out monitor: after every epoch the same held-out images are embedded and projected.

It leaves weights, BatchNorm's running statistics and every random state as they are, so that a run that is watched has
the bits of one that is not. Labels are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.distributed.collectives import rank
from pipeline.core.seeds import generator
from pipeline.data.loader import batches, squares
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.views.multicrop import evaluation_view
from pipeline.losses import spectrum
from pipeline.losses.lejepa import random_directions
from pipeline.schema.pretrain import Pretrain

MIN_RANKED = 16  # images: a rank is bounded by their number, and of fewer it says nothing about the network
DRAWS_SEED = 0  # of images and directions: the same for every run, so that their curves compare


@dataclass(frozen=True)
class HeldOutMonitor:
    """Embeds and projects held-out images and says in a few numbers how they fill their spaces.

    Attributes:
        images: N of the test split, in memory.
        directions: (K, S) of the Epps-Pulley statistic.
        view: size_px, mean and std as for `views.evaluation_view`.
        batch_size: images a forward pass.
        device: where the modules are.
        autocast: precision context.
    """

    images: ImageBatch
    directions: Tensor
    view: dict[str, Any]
    batch_size: int
    device: torch.device
    autocast: torch.autocast

    def __call__(self, backbone: nn.Module, projector: nn.Module) -> dict[str, float]:
        """Return the health of one moment of training; the modules come back in the mode they had.

        Args:
            backbone: (B, 3, H, W) -> (B, D).
            projector: (B, D) -> (B, K).

        Returns:
            Of embedding and projection the mean norm, the root of the mean variance over dimensions, RankMe and
            isotropy, and of the projection the Epps-Pulley statistic, mean over slices. NaN or infinite for a network
            that diverged; no rank of fewer than 16 images.
        """
        embeddings, projections = self.embed(backbone, projector)
        facts = {"embedding": embeddings, "projection": projections}
        found = {f"{name}_{fact}": value for name, z in facts.items() for fact, value in _describe(z).items()}
        slices = spectrum.slice_epps_pulley(projections, self.directions)
        return found | {"projection_epps_pulley": float(slices.mean())}

    @torch.no_grad()  # inference mode would leave its tensors in caches that training reads
    def embed(self, backbone: nn.Module, projector: nn.Module) -> tuple[Tensor, Tensor]:
        """Return embeddings (N, D) and projections (N, K), float32 on the CPU, in evaluation mode."""
        modes = [(module, module.training) for module in (backbone, projector)]
        for module, _ in modes:
            module.eval()
        embeddings, projections = [], []
        order = torch.arange(len(self.images.labels))
        for batch in batches(self.images, order, self.batch_size, device=self.device):
            view = evaluation_view(batch.pixels, **self.view)
            with self.autocast:
                # Not called but forwarded: a compiled backbone would be compiled again, for minutes, for this mode.
                embedding = backbone.forward(view)
                projection = projector(embedding)
            embeddings.append(embedding.float().cpu())
            projections.append(projection.float().cpu())
        for module, was_training in modes:
            module.train(was_training)
        return torch.cat(embeddings), torch.cat(projections)


def _describe(samples: Tensor) -> dict[str, float]:
    found = {"norm": float(spectrum.norms(samples).mean()), "std": spectrum.root_mean_variance(samples)}
    if len(samples) >= MIN_RANKED:
        found["rank"] = spectrum.effective_rank(spectrum.singular_values(samples))
    return found | {"isotropy": spectrum.isotropy(samples)}


def build_monitor(
    folder: str, settings: Pretrain, device: torch.device, autocast: torch.autocast
) -> HeldOutMonitor | None:
    """Build what the section `pretrain` asks to be watched on a packed data set.

    None if it asks for nothing, and on all ranks but the first, which tells the others what it saw.
    """
    health, views = settings.health, settings.views
    if rank() or not health.num_images:
        return None
    draws = generator(DRAWS_SEED, "watched directions")
    return HeldOutMonitor(
        images=held_out(folder, health.num_images, settings.load_px, views.global_px),
        directions=random_directions(settings.projector.proj_dim, health.num_slices, generator=draws),
        view={"size_px": views.global_px, "mean": views.mean, "std": views.std},
        batch_size=settings.batch_size * views.num_global,  # as many as training embeds at once
        device=device,
        autocast=autocast,
    )


def held_out(folder: str, num_images: int, load_px: int, size_px: int) -> ImageBatch:
    """Decode some images of a test split, drawn at random, photographs as squares of `size_px`; at most all."""
    split = PackedSplit(folder, "test", load_px=load_px)
    members = torch.randperm(len(split), generator=generator(DRAWS_SEED, "watched images"))[:num_images].sort().values
    (images,) = squares(split, members, len(members), size_px)
    return images
