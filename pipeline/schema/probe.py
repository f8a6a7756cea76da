"""The section `probe` of params.yaml: every key with its type, range and meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.catalogue.types import Fraction, Positive, Range
from pipeline.catalogue.validation import Strict


class Linear(Strict):
    """Linear probe: every setting is trained at once, the best on held-out training images is reported."""

    learning_rates: list[Positive] = Field([1e-3, 3e-3, 1e-2, 3e-2], min_length=1)
    weight_decays: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [1e-6], min_length=1, description="each is tried with every learning rate"
    )
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(512, ge=1)


class Knn(Strict):
    """Weighted nearest neighbours by cosine similarity."""

    k: int = Field(20, ge=1)
    temperature: Positive = 0.07


class FewShot(Strict):
    """Closed-form ridge classifier on a few labelled images a class; in mode finetune the shots are fine-tuned on."""

    shots: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 10], description="labelled images a class; a class that has fewer gives all of them"
    )
    num_draws: int = Field(3, ge=1, le=1000, description="random subsets; mean and standard deviation are reported")
    ridge: Positive = Field(0.1, description="penalty, as a multiple of the mean squared feature norm")


class Finetune(Strict):
    """Full fine-tuning: AdamW on backbone and linear head, warm-up and cosine, random resized crops and flips."""

    epochs: int = Field(30, ge=1, description="passes over the training images; a last partial batch is left out")
    min_steps: int = Field(200, ge=1, description="a run of fewer steps, on a few images, gets more passes")
    batch_size: int = Field(64, ge=2)
    learning_rates: list[Positive] = Field(
        [1e-4, 1e-3], min_length=1, description="the best on held-out images is reported; one is not tried out"
    )
    few_shot_lr: Positive = Field(1e-4, description="of the few-shot runs: few labels leave none to tune it on")
    num_draws: int = Field(1, ge=1, le=1000, description="random subsets for each number of shots")
    weight_decay: float = Field(0.05, ge=0, le=10, description="not applied to biases, norms and other vectors")
    warmup_frac: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of the steps")
    crop_scale: Range = Field([0.3, 1.0], description="area of a crop as a fraction of the image")
    flip_prob: Fraction = 0.5

    @field_validator("crop_scale")
    @classmethod
    def _within_the_image(cls, values: list[float]) -> list[float]:
        if not 0 < values[0] <= values[1] <= 1:
            raise ValueError(f"must be [low, high] with 0 < low <= high <= 1, got {values}")
        return values


class Health(Strict):
    """What is said of embedding and projection without labels, on test images; see pipeline/probing/health.py."""

    num_images: int = Field(1000, ge=32, description="of the test split, drawn at random; a smaller split gives all")
    num_slices: int = Field(256, ge=1, le=65_536, description="directions of the Epps-Pulley statistic")
    lidar_images: int = Field(200, ge=16, description="images of LiDAR, each a class of its own")
    lidar_views: int = Field(8, ge=2, le=1000, description="augmented views of each of them")


class Probe(Strict):
    """Evaluation of a backbone, beside the same one at random initialisation and beside raw pixels."""

    mode: Literal["frozen", "finetune"] = Field(
        "frozen", description="finetune: backbones' linear scores are fine-tuned; k-NN and raw pixels stay as they are"
    )
    site: Literal["pooled", "cls_last2", "patch_mean"] = Field(
        "pooled", description="features that are probed: see pipeline.models.sites.site_extractor"
    )
    baselines: list[Literal["random_init", "raw_pixels"]] = Field(
        ["random_init", "raw_pixels"], description="measured beside the backbone; [] for none"
    )
    holdout_frac: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="of the training set, for tuning")
    batch_size: int = Field(256, ge=1, description="images a forward pass of the frozen backbone")
    linear: Linear = Linear()
    knn: Knn = Knn()
    few_shot: FewShot = FewShot()
    finetune: Finetune = Finetune()
    health: Health = Health()
