"""Model selection in sentences: the selected run and its uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.reports.comparison import score_label
from pipeline.reports.render import ABSENT, percent, points, signed
from pipeline.selection.correlation import ALL, MIN_RUNS, Entry, entry_of, of_group
from pipeline.selection.criteria import RULE, Criterion

FEW = 10  # below it the 95 % interval of a true 0.8 reaches under 0.3 (Fisher's z, standard error 1.03 / sqrt(n - 3))


def groups(entries: Iterable[Entry]) -> list[str]:
    """Name the tasks in order, then "all" where there are several."""
    found = [name for name in dict.fromkeys(entry.dataset for entry in entries) if name != ALL]
    return [*found, *[ALL] * (len(found) > 1)]


def sentences(entries: Sequence[Entry], exponent: float, score: str) -> dict[str, str]:
    """Say of each task in one sentence which run to take, and how sure one can be.

    Args:
        entries: of `correlation.select`.
        exponent: a of the rule.
        score: name of the accuracy that runs are judged by.

    Returns:
        {task: sentence}.
    """
    return {name: _sentence(of_group(entries, name), name, exponent, score) for name in groups(entries) if name != ALL}


def _sentence(entries: Sequence[Entry], dataset: str, exponent: float, score: str) -> str:
    entry, rule = entry_of(entries, RULE, exponent), Criterion(RULE, exponent).label
    if entry is None:
        return f"{dataset}: no run can be picked, since {rule} is not defined for any (lambda is 0 in all of them)."
    among = f"{entry.num_runs} run{'s' * (entry.num_runs > 1)}"
    among += f", {100 * entry.margin:.1f} % below the next" if entry.margin else ""
    return (
        f"{dataset}: take {entry.pick} (lowest {rule} of {among}), whose {score_label(score)} accuracy of "
        f"{percent(entry.accuracy)} is {percent(entry.regret)} points under the best run by test labels "
        f"and {points(entry.gain)} against a random pick; {'; '.join(certainty(entry))}."
    )


def certainty(entry: Entry) -> list[str]:
    """Say in clauses how far the rule's pick can be trusted."""
    runs = f"{entry.num_runs} run{'s' * (entry.num_runs > 1)}"
    said = [f"{entry.num_left_out} with lambda 0 left out"] if entry.num_left_out else []
    if entry.num_runs < MIN_RUNS:
        return [*said, f"with {runs} nothing can be said of how sure that is"]
    if entry.rho is None:
        said.append("there is no correlation to rely on, since all runs have the same accuracy or the same loss")
    else:
        said.append(f"loss and accuracy agree with ρ = {interval_text(entry)}{_judgement(entry)}")
    near, better = share(entry.within_point), share(entry.beats_random)
    said.append(f"such a pick is within a point of the best in {near} of resamples and beats their mean in {better}")
    return [*said, *[f"{runs} are few"] * (entry.num_runs < FEW)]


def _judgement(entry: Entry) -> str:
    if entry.low is None:
        return ", the same in every resample and so without an interval"
    if entry.low > 0:
        return ""
    if entry.high < 0:
        return ", so a lower loss means lower accuracy here"
    return ", an interval that includes 0, so it is not shown that the loss orders these runs"


def interval_text(entry: Entry) -> str:
    """Write rho with its interval, as +0.79 [+0.31, +0.95]; a dash where it is not defined."""
    if entry.rho is None:
        return ABSENT
    return signed(entry.rho) + ("" if entry.low is None else f" [{signed(entry.low)}, {signed(entry.high)}]")


def share(value: float | None) -> str:
    """Write a share of resamples in percent; a dash where there are none."""
    return ABSENT if value is None else f"{100 * value:.0f} %"


def criterion_label(entry: Entry) -> str:
    """Name a criterion for readers, e.g. train loss / λ^0.4."""
    name = entry.criterion.replace("_", " ")
    return f"{name} / λ^{entry.a:g}" if entry.a else name
