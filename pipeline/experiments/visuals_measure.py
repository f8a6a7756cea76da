"""Figures 13 and 14 for one backbone: the pictures, and how far its maps tell the middle of images from their border.

Most photographs have their object in the middle. So the measure is the area under the ROC curve of middle against
border. Untrained networks tell the two apart as well, by zero padding or by what the pixels show already, and some
initialisations more than others: the number to beat is the best of several. What the measure does not say: whether
outlines are right, or whether a map follows an object that stands elsewhere; a map that is the same for every image can
score well. For that, look at the sheet.

Legend: N images, h x w positions, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.catalogue.types import Distinct
from pipeline.catalogue.validation import Strict
from pipeline.core.seeds import generator
from pipeline.data.loader import squares
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.views.multicrop import evaluation_view
from pipeline.experiments import visuals
from pipeline.models.backbones import create_backbone, initial_backbone
from pipeline.models.weights import load_weights, read_description
from pipeline.pictures import last_layer
from pipeline.pictures.colours import heat, pca_rgb, project
from pipeline.pictures.sheet import thumbnails
from pipeline.runtime.errors import UserError

MEASURES = ("pca", "attention")
NETWORKS = ("trained", "random_init", "best_init")


class Settings(Strict):
    """Section `visuals` of paper/figure13/params.yaml."""

    weights: str = Field(description="a backbone.safetensors of this project, which names its architecture")
    dataset: str = Field(description="name of a folder of data/")
    split: Literal["train", "test"]
    size_px: int = Field(ge=1, description="side of the images that the backbone sees")
    num_images: int = Field(ge=2, description="that are measured, drawn from the split")
    num_shown: int = Field(ge=1, description="the first of them, on the sheet")
    seed: int = Field(ge=0, description="of the drawing and of the bootstrap")
    pca: Literal["image", "images"] = Field(description="colours of each image by itself, or of all shown together")
    foreground: bool = Field(description="colour the foreground alone, see `visuals.foreground_rgb`")
    attention_mass: float = Field(gt=0, le=1, description="share of the attention that the mask keeps")
    centre_frac: float = Field(gt=0, lt=1, description="side of the middle as a fraction of the image's")
    random_init_seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(
        description="of the initialisations to compare with; the first is on the sheet"
    )
    batch_size: int = Field(ge=1, description="images a forward pass")
    device: Literal["auto", "cpu", "cuda"]

    @model_validator(mode="after")
    def _shown_are_measured(self) -> Settings:
        if self.num_shown > self.num_images:
            raise ValueError(f"num_shown must be <= visuals.num_images, {self.num_images}, got {self.num_shown}")
        return self


class Maps(NamedTuple):
    """What one network shows: features (N, h, w, D) and attention (N, h, w), the mean over heads; float32, CPU."""

    features: Tensor
    attention: Tensor


class Found(NamedTuple):
    """What `measure` found.

    columns: of the sheet, pictures by heading. rows: one an image, with `image` (index in the split), `label` and
    centre AUROCs `<measure>_<network>`; random_init is the mean over the initialisations, best_init the one whose mean
    over images is highest. model: what the weights say of themselves. grid: h and w. has_class_token: whose attention
    it is.
    """

    columns: dict[str, Tensor]
    rows: list[dict[str, Any]]
    model: dict[str, Any]
    grid: tuple[int, int]
    has_class_token: bool


def measure(settings: Settings, device: torch.device) -> Found:
    """Look at the images through the trained backbone and through random initialisations of it.

    Raises:
        UserError: weights that are absent or not of this project, more images than there are, or a size that the
            architecture does not take.
    """
    weights = Path(settings.weights)
    model = read_description(weights, remedy="run the pipeline that trains it, or change visuals.weights")
    architecture = model["backbone"], model["kwargs"]
    chosen, images = draw_images(settings)
    views = evaluation_view(images.pixels, settings.size_px, mean=model["mean"], std=model["std"])
    backbone = create_backbone(*architecture)
    load_weights(weights, backbone)

    def through(network: nn.Module) -> tuple[dict[str, Tensor], Maps]:
        seen = look(network, views, settings, device)
        return separation(seen, settings), Maps(*(part[: settings.num_shown].clone() for part in seen))

    trained, maps = through(backbone)
    untrained, before = zip(
        *(through(initial_backbone(*architecture, seed=seed)) for seed in settings.random_init_seeds), strict=True
    )
    scores = {}
    for name in MEASURES:
        inits = torch.stack([one[name] for one in untrained])
        of_networks = (trained[name], inits.mean(0), inits[inits.mean(1).argmax()])
        scores |= {f"{name}_{network}": values for network, values in zip(NETWORKS, of_networks, strict=True)}
    rows = [
        {"image": index, "label": label} | {name: float(values[i]) for name, values in scores.items()}
        for i, (index, label) in enumerate(zip(chosen.tolist(), images.labels.tolist(), strict=True))
    ]
    columns = pictures(ImageBatch(*(part[: settings.num_shown] for part in images)), maps, before[0], settings)
    return Found(columns, rows, model, tuple(maps.attention.shape[1:]), last_layer.has_class_token(backbone))


def draw_images(settings: Settings) -> tuple[Tensor, ImageBatch]:
    """Draw images without replacement; returns their indices (N,) in the split and the images.

    Raises:
        UserError: if the split has fewer.
    """
    images = PackedSplit(Path("data") / settings.dataset, settings.split, load_px=2 * settings.size_px)
    if settings.num_images > len(images):
        raise UserError(
            f"visuals.num_images must be <= {len(images)}, the images of {settings.dataset} {settings.split}, "
            f"got {settings.num_images}"
        )
    order = torch.randperm(len(images), generator=generator(settings.seed, "visuals"))[: settings.num_images]
    return order, next(squares(images, order, settings.num_images, settings.size_px))


@torch.inference_mode()
def look(backbone: nn.Module, views: Tensor, settings: Settings, device: torch.device) -> Maps:
    """Run a network over views (N, 3, H, W), in float32.

    Raises:
        UserError: if it fails at this size.
    """
    backbone.to(device).eval()
    found = []
    try:
        for batch in views.split(settings.batch_size):
            features = last_layer.patch_features(backbone, batch.to(device))
            found.append((features.cpu(), last_layer.attention_maps(backbone, batch.to(device)).mean(1).cpu()))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"visuals.size_px: {type(backbone).__name__} fails at {settings.size_px} px with visuals.batch_size "
            f"{settings.batch_size}: {reason}; take the size of its training, or a smaller batch"
        ) from None
    return Maps(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def separation(seen: Maps, settings: Settings) -> dict[str, Tensor]:
    """Return the centre AUROC (N,) of the first principal component and of the attention.

    The PCA is that of all images together, and its sign the one that puts the middle above the border on average: one
    sign for all images, since the better of two for each would be above one half by chance.
    """
    along = visuals.centre_auroc(project(seen.features)[..., 0], settings.centre_frac)
    return {
        "pca": along if along.mean() >= 0.5 else 1 - along,
        "attention": visuals.centre_auroc(seen.attention, settings.centre_frac),
    }


def pictures(images: ImageBatch, trained: Maps, untrained: Maps, settings: Settings) -> dict[str, Tensor]:
    """Return the columns of the sheet, (N, H, W, 3) uint8 by heading."""
    inputs = thumbnails(images, settings.size_px)
    masks = visuals.kept_mass(trained.attention, settings.attention_mass)
    return {
        "image": inputs,
        "PCA": _colours(trained.features, settings),
        "attention": heat(trained.attention),
        f"{100 * settings.attention_mass:g} % of attention": visuals.cut_out(inputs, masks),
        "random init: PCA": _colours(untrained.features, settings),
        "random init: attention": heat(untrained.attention),
    }


def _colours(features: Tensor, settings: Settings) -> Tensor:
    groups = features.split(1) if settings.pca == "image" else [features]
    colours = visuals.foreground_rgb if settings.foreground else pca_rgb
    return torch.cat([colours(group) for group in groups])
