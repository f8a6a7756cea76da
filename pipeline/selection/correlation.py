"""Agreement of label-free criteria with accuracy, and the quality of the run that each of them picks.

Letters: B bootstrap resamples, R runs of a group. Every correlation is an agreement: +1 where the criterion puts the
runs in the order of their accuracies, whichever way the criterion itself points, so a loss that falls as accuracy rises
has a positive one. (The paper prints magnitudes.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.selection.criteria import Criterion, Run, all_criteria

ALL = "all"  # in place of a data set or backbone: the runs of all of them
MIN_RUNS = 3  # two runs are always in perfect order, one way or the other
LEVEL = 0.95  # of the intervals
NEAR = 0.01  # of accuracy: "within a point of the best"
SEED = 0


@dataclass(frozen=True)
class Entry:
    """A line of the table: one criterion on one group of runs. Accuracies and their differences are fractions.

    Attributes:
        dataset: the task, or "all": the mean over tasks.
        backbone: the group within the task, or "all".
        criterion, a: see `Criterion`.
        num_runs: runs that have the criterion.
        num_left_out: runs of the group that lack it.
        rho: Spearman agreement of criterion and accuracy; None below three runs or where one side is constant.
        low, high: ends of its 95 % percentile bootstrap interval over runs; None without rho, or where every resample
            gives the same rho and so tells nothing about its spread.
        num_degenerate: resamples without a correlation (one side constant), left out of the interval.
        pick: key of the run with the best criterion, of equals the first by key; "" for the mean over tasks.
        margin: how far the runner-up's criterion is from the pick's, as a fraction of the pick's.
        accuracy: of the pick.
        best: highest accuracy; the best on the test split is an oracle no one has, so regret is never negative.
        by_holdout: accuracy of the run that is best on held-out labels.
        random: mean accuracy, what a random pick has in expectation.
        regret: best - accuracy.
        regret_to_holdout: by_holdout - accuracy; negative where the criterion did better than held-out labels.
        gain: accuracy - random.
        within_point: share of the resamples in which the rule picks a run within one point of the resample's best.
        beats_random: share of the resamples in which it picks a run above the resample's mean.
    """

    dataset: str
    backbone: str
    criterion: str
    a: float | None
    num_runs: int
    num_left_out: int
    rho: float | None = None
    low: float | None = None
    high: float | None = None
    num_degenerate: int = 0
    pick: str = ""
    margin: float | None = None
    accuracy: float | None = None
    best: float | None = None
    by_holdout: float | None = None
    random: float | None = None
    regret: float | None = None
    regret_to_holdout: float | None = None
    gain: float | None = None
    within_point: float | None = None
    beats_random: float | None = None


MEANS = tuple(Entry.__dataclass_fields__)[-9:]  # what the mean over tasks averages: from `accuracy` on


def select(runs: Iterable[Run], *, exponent: float, num_draws: int, seed: int = SEED) -> list[Entry]:
    """Judge every criterion on every group: each task, each backbone of a task, and the mean over tasks.

    The order of `runs` changes nothing. Within a group all criteria see the same resamples, so that they can be
    compared.

    Args:
        runs: with distinct keys.
        exponent: a of the rule, in [0, 1].
        num_draws: bootstrap resamples, >= 1.
        seed: of the resamples.

    Returns:
        Entries in the order of tasks, backbones ("all" first) and criteria; a criterion that no run has is left out.
    """
    runs = sorted(runs, key=lambda run: run.key)
    wanted = all_criteria(exponent)
    entries: list[Entry] = []
    overall: dict[Criterion, list[tuple[Entry, np.ndarray]]] = {criterion: [] for criterion in wanted}
    for dataset in sorted({run.dataset for run in runs}):
        group = [run for run in runs if run.dataset == dataset]
        source = [seed, zlib.crc32(dataset.encode())]  # tasks are resampled independently of each other
        for backbone in (ALL, *sorted({run.backbone for run in group})):
            mine = [run for run in group if backbone in (ALL, run.backbone)]
            for criterion in wanted:
                if found := judge(mine, criterion, num_draws, np.random.default_rng(source)):
                    entries.append(replace(found[0], dataset=dataset, backbone=backbone))
                    if backbone == ALL:
                        overall[criterion].append(found)
    return entries + [_over_tasks(criterion, found) for criterion, found in overall.items() if found]


def judge(
    runs: Sequence[Run], criterion: Criterion, num_draws: int, generator: np.random.Generator
) -> tuple[Entry, np.ndarray] | None:
    """Judge one criterion on one group of runs.

    Args:
        runs: of one task, in the order of their keys.
        criterion: what orders them.
        num_draws: B.
        generator: of the resamples.

    Returns:
        The entry and (B,) agreements of the resamples, nan where one has none; None if no run has the criterion.
    """
    told = [(run, value) for run in runs if (value := criterion.goodness(run)) is not None]
    if not told:
        return None
    defined = [run for run, _ in told]
    goodness, accuracy = np.array([value for _, value in told]), np.array([run.accuracy for run in defined])
    entry = Entry(ALL, ALL, criterion.name, criterion.a, len(defined), len(runs) - len(defined))
    entry = replace(entry, **_pick(defined, goodness, accuracy))
    if len(defined) < MIN_RUNS:
        return entry, np.full(num_draws, np.nan)
    counts = generator.multinomial(len(defined), np.full(len(defined), 1 / len(defined)), num_draws)
    rhos = spearman(goodness, accuracy, counts)
    (rho,) = spearman(goodness, accuracy, np.ones((1, len(defined)), int))
    return replace(entry, **interval(rho, rhos), **picks_of_resamples(goodness, accuracy, counts)), rhos


def _pick(runs: Sequence[Run], goodness: np.ndarray, accuracy: np.ndarray) -> dict[str, float | str | None]:
    first = int(goodness.argmax())
    others = np.delete(goodness, first)
    margin = (goodness[first] - others.max()) / abs(goodness[first]) if len(others) and goodness[first] else None
    labelled = [run.holdout for run in runs]
    by_holdout = None if None in labelled else float(accuracy[int(np.argmax(labelled))])
    found, best, random = float(accuracy[first]), float(accuracy.max()), float(accuracy.mean())
    return {
        "pick": runs[first].key,
        "margin": None if margin is None else float(margin),
        "accuracy": found,
        "best": best,
        "by_holdout": by_holdout,
        "random": random,
        "regret": best - found,
        "regret_to_holdout": None if by_holdout is None else by_holdout - found,
        "gain": found - random,
    }


def _over_tasks(criterion: Criterion, found: Sequence[tuple[Entry, np.ndarray]]) -> Entry:
    """Average one criterion over tasks.

    Runs are ranked within their task alone, so that an easy data set with low losses fakes no correlation. The
    correlations are weighed with runs - 1, the inverse of their variance where there is no correlation; the other
    columns are plain means over tasks.
    """
    entries = [entry for entry, _ in found]
    entry = Entry(
        ALL,
        ALL,
        criterion.name,
        criterion.a,
        sum(entry.num_runs for entry in entries),
        sum(entry.num_left_out for entry in entries),
        **{name: _mean([getattr(entry, name) for entry in entries]) for name in MEANS},
    )
    known = [(entry, rhos) for entry, rhos in found if entry.rho is not None]
    if not known:
        return entry
    weights = np.array([entry.num_runs - 1 for entry, _ in known]) / sum(entry.num_runs - 1 for entry, _ in known)
    rho = float(weights @ np.array([entry.rho for entry, _ in known]))
    return replace(entry, **interval(rho, weights @ np.stack([rhos for _, rhos in known])))


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def interval(rho: float, rhos: np.ndarray) -> dict[str, float | int | None]:
    """Return rho with its percentile bootstrap interval, as columns of an entry.

    Args:
        rho: agreement of the runs; nan where one side is constant.
        rhos: (B,) of the resamples; nan where one side is constant.
    """
    if np.isnan(rho):
        return {"rho": None, "low": None, "high": None, "num_degenerate": 0}
    valid = rhos[~np.isnan(rhos)]
    low, high = np.quantile(valid, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(valid) else (rho, rho)
    known = high - low > 1e-9  # else every resample gives the same: rounding apart, there is no spread to tell of
    return {
        "rho": float(rho),
        "low": float(low) if known else None,
        "high": float(high) if known else None,
        "num_degenerate": len(rhos) - len(valid),
    }


def spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman correlation of paired values in many resamples at once.

    Args:
        first, second: (R,) values.
        counts: (B, R) whole numbers, how often each pair is in each resample.

    Returns:
        (B,) in [-1, 1]; nan where one side of a resample is constant.
    """
    centre = (counts.sum(1, keepdims=True) + 1) / 2  # the mean of mean ranks, ties or not
    x, y = midranks(first, counts) - centre, midranks(second, counts) - centre
    covariance = (counts * x * y).sum(1)
    spread = np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
    return np.divide(covariance, spread, out=np.full(len(counts), np.nan), where=spread > 0)


def midranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank values within resamples; equal ones share the mean of their ranks.

    Args:
        values: (R,).
        counts: (B, R), how often each value is in each resample.

    Returns:
        (B, R) ranks from 1; of a value that a resample lacks, where it would stand (to be weighed with its count 0).
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    totals = np.add.reduceat(counts[:, order], starts, axis=1)  # (B, distinct values)
    ranks = totals.cumsum(1) - totals + (totals + 1) / 2
    out = np.empty(counts.shape)
    out[:, order] = np.repeat(ranks, np.diff(starts, append=len(values)), axis=1)
    return out


def picks_of_resamples(goodness: np.ndarray, accuracy: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """How often the rule does well where other runs might have been made: columns of an entry.

    Args:
        goodness: (R,) of the criterion, more is better.
        accuracy: (R,).
        counts: (B, R) of the resamples.
    """
    order = np.argsort(-goodness, kind="stable")
    present = counts > 0
    picked = accuracy[order][present[:, order].argmax(1)]
    best = np.where(present, accuracy, -np.inf).max(1)
    mean = counts @ accuracy / counts.sum(1)
    return {
        "within_point": float((picked >= best - NEAR - 1e-12).mean()),  # a point in the last bit is a point
        "beats_random": float((picked > mean + 1e-12).mean()),
    }


def hindsight(entries: Iterable[Entry], criterion: str) -> Entry | None:
    """Return the entry of the a with the highest agreement, of equals the smallest a: known only with labels.

    Args:
        entries: of one group.
        criterion: divided by lambda^a.
    """
    known = [entry for entry in entries if entry.criterion == criterion and entry.rho is not None]
    return max(known, key=lambda entry: (round(entry.rho, 9), -entry.a), default=None)


def of_group(entries: Iterable[Entry], dataset: str, backbone: str = ALL) -> list[Entry]:
    """Return the entries of one group, in order."""
    return [entry for entry in entries if (entry.dataset, entry.backbone) == (dataset, backbone)]


def entry_of(entries: Iterable[Entry], name: str, a: float | None = None) -> Entry | None:
    """Return a criterion's entry among those of one group; None where no run had it."""
    return next((entry for entry in entries if (entry.criterion, entry.a) == (name, a)), None)
