"""The sections `diagnose`, `density` and `pictures` of params.yaml: what is said of runs once they are probed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.catalogue.types import Fraction, Positive
from pipeline.catalogue.validation import Strict


class Diagnose(Strict):
    """Model selection without labels: how well label-free criteria order the runs of a grid."""

    score: Literal["linear_top1", "knn_top1"] = Field("linear_top1", description="accuracy that runs are judged by")
    exponent: Fraction = Field(0.4, description="a of the rule that picks runs: lowest train_loss / lambda^a")
    num_draws: int = Field(2000, ge=100, le=1_000_000, description="bootstrap resamples of an interval")


class Density(Strict):
    """JEPA-SCORE: which images a picked run finds typical, and whether foreign images score lower."""

    sets: list[str] = Field(
        [], description="data sets that every picked run scores beside its own, names from `datasets`; []: no analysis"
    )
    num_images: int = Field(
        150, ge=10, description="of each set's test split, drawn at random; a smaller split gives all"
    )
    num_sketches: int = Field(16, ge=1, description="rows of the Jacobian that the fast estimate takes")
    max_tflop: Positive = Field(
        10.0,
        description="1e12 operations that the exact score of one set by one run may take (minutes of a laptop's core); "
        "beyond it the sketch stands in, and beyond that fewer images are scored",
    )
    num_shown: int = Field(6, ge=1, le=50, description="most and least typical images of a class on a sheet")
    k: int = Field(
        20, ge=1, description="the distance to the k-th nearest training image is a baseline; at most all of them"
    )


class Pictures(Strict):
    """What the picked runs see: last-layer features as colours, attention, neighbours, a map of the embedding."""

    num_images: int = Field(8, ge=2, le=100, description="on the sheets, of the test split")
    num_neighbours: int = Field(6, ge=1, le=50, description="training images beside each query")
    num_mapped: int = Field(1000, ge=50, le=20_000, description="test images on the two-dimensional map")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
