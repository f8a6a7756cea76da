"""AUROC of each pair of data sets and rank correlations between scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from pipeline.density.auroc import auroc
from pipeline.density.encoders import encoder_names, home_of, scored_sets, scores_path
from pipeline.density.methods import CORRELATIONS, METHODS, Scores, read_scores
from pipeline.runtime.absent import reason
from pipeline.runtime.errors import UserError
from pipeline.schema.resolved_analyses import ScoreRun

Found = Mapping[tuple[str, str], Scores]
OTHERS = (*(name for name in METHODS if name != "jepa_score"), "pixel_mean")


def read_all(run: ScoreRun) -> tuple[dict[tuple[str, str], Scores], list[str]]:
    """Read the scores that every encoder of a grid gave to its own set and to each of density.sets.

    Args:
        run: settings of the scores.

    Returns:
        {(encoder, data set): scores}, and a line for everything that is absent, broken or scored otherwise than asked
        for. An encoder without scores of its own set has none at all: there is nothing to compare with.

    Raises:
        NotAskedFor: if density.sets is empty.
    """
    found, told = {}, []
    for name in encoder_names(run):
        own: dict[tuple[str, str], Scores] = {}
        for scored in scored_sets(name, run):
            path = scores_path(name, scored, run)
            if why := reason(path) or reason(path.parent):
                told.append(f"{name} on {scored}: {why}")
                continue
            try:
                own[name, scored] = read_scores(path)
            except UserError as error:
                told.append(f"{name} on {scored}: {error}; make it with: python -m stages.score {name} {scored}")
                continue
            told += [f"{name} on {scored}: {note}" for note in own[name, scored].notes]
        found |= own if (name, home_of(name, run)) in own else {}
    return found, told


def auroc_table(found: Found, homes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row of TABLE for each encoder, foreign set and method.

    Args:
        found: of `read_all`.
        homes: in-domain set of each encoder.
    """
    rows = []
    for (name, scored), outside in found.items():
        inside = found[name, homes[name]]
        for method in METHODS if scored != homes[name] else ():
            area = auroc(inside.typicality(method), outside.typicality(method))
            names = {"trained": name, "foreign": scored, "method": method}
            counts = {"num_in": len(inside.images), "num_out": len(outside.images)}
            rows.append({**names, "auroc": area.value, "low": area.low, "high": area.high, **counts})
    return rows


def correlation_table(found: Found) -> list[dict[str, Any]]:
    """Return rows of CORRELATIONS: the exact score against every other column, and against that of other encoders.

    All scores have the sign that makes high typical. `other` is a column, or `jepa_score of <encoder>`; `spearman` is
    None where a score is constant.
    """
    rows = []
    for (name, scored), scores in found.items():
        for other in OTHERS:
            values = scores.values[other] if other == "pixel_mean" else scores.typicality(other)
            rho = spearman(scores.values["jepa_score"], values)
            rows.append(_correlation(name, scored, other, rho, len(scores.images)))
    return [*rows, *_between_encoders(found)]


def _between_encoders(found: Found) -> Iterator[dict[str, Any]]:
    for scored in dict.fromkeys(scored for _, scored in found):
        by_encoder = {name: scores for (name, of), scores in found.items() if of == scored}
        for (first, one), (second, other) in combinations(by_encoder.items(), 2):
            if not np.array_equal(one.images, other.images):  # the budget let one of them score fewer
                continue
            rho = spearman(one.values["jepa_score"], other.values["jepa_score"])
            yield _correlation(first, scored, f"jepa_score of {second}", rho, len(one.images))


def _correlation(trained: str, scored: str, other: str, rho: float | None, num_images: int) -> dict[str, Any]:
    return dict(zip(CORRELATIONS, (trained, scored, other, rho, num_images), strict=True))


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the rank correlation of two scores (N,), ties at their mean rank; None where one of them is constant."""
    if min(np.ptp(first), np.ptp(second)) == 0:
        return None
    return float(spearmanr(first, second).statistic)
