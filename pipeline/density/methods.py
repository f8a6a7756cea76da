"""The scores of an image, with the direction in which each is read: one CSV file for each (encoder, data set)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.csv_files import csv_text, read_comments, read_rows, rounded
from pipeline.runtime.errors import UserError


class Method(NamedTuple):
    """How a score is read. sign: 1 if high is typical, -1 if low is. Fixed before anything is measured."""

    label: str
    sign: int
    note: str


METHODS = {
    "jepa_score": Method("JEPA-SCORE", 1, "exact, arXiv 2510.05949"),
    "jepa_score_sketch": Method("JEPA-SCORE sketch", 1, "estimate from some rows of the Jacobian"),
    "random_init_jepa_score": Method("JEPA-SCORE untrained", 1, "the same network before training"),
    "knn_distance": Method("k-NN distance", -1, "to the k-th nearest training embedding, Sun et al. 2022"),
    "mahalanobis": Method("Mahalanobis distance", -1, "to the mean of the training embeddings, shrunk covariance"),
    "relative_mahalanobis": Method(
        "relative Mahalanobis distance", -1, "uses labels: nearest class minus all classes, Ren et al. 2021"
    ),
    "embedding_norm": Method("embedding norm", 1, "feature norms are larger in-domain, Park et al. 2023"),
    "pixel_mean_distance": Method("pixel mean", -1, "distance from the mean brightness of the training images"),
    "pixel_knn_distance": Method("pixel k-NN distance", -1, "to the k-th nearest training image, no network"),
}
COLUMNS = ("image", "label", "class", *METHODS, "pixel_mean")
TABLE = ("trained", "foreign", "method", "auroc", "low", "high", "num_in", "num_out")  # of table.csv
CORRELATIONS = ("trained", "scored", "other", "spearman", "num_images")  # of correlations.csv
NOTES = "notes.txt"  # what is missing or was made otherwise than asked for, a line each
DIGITS = 9  # that float32 needs to be read back exactly


class Scores(NamedTuple):
    """What one encoder says of N images of a data set.

    images: (N,) int64 indices in the test split. labels: (N,) int64. classes: (N,) their names. values: by column of
    METHODS and `pixel_mean`, (N,) float64. notes: in what they were made otherwise than asked for.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    values: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def typicality(self, method: str) -> np.ndarray:
        """Return the score with the sign that makes high typical."""
        return METHODS[method].sign * self.values[method]


def scores_text(rows: Iterable[Mapping[str, Any]], notes: Iterable[str] = ()) -> str:
    """Write rows of COLUMNS as CSV text, notes as comments in front of it."""
    return "".join(f"# {note}\n" for note in notes) + csv_text(COLUMNS, (rounded(row, DIGITS) for row in rows))


def read_scores(path: Path) -> Scores:
    """Read what `scores_text` wrote.

    Raises:
        UserError: if the file is absent, has other columns, no rows, or a score that is no finite number.
    """
    rows, notes = read_rows(path, COLUMNS), read_comments(path)
    try:
        values = {name: np.array([float(row[name]) for row in rows]) for name in (*METHODS, "pixel_mean")}
        images, labels = (np.array([int(row[name]) for row in rows]) for name in ("image", "label"))
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}); remove it and score again") from None
    if not rows or not all(np.isfinite(column).all() for column in values.values()):
        raise UserError(f"{path} must have rows of finite scores; remove it and score again")
    return Scores(images, labels, [row["class"] for row in rows], values, notes)
