"""One number of a paper table: the paper's, ours, or both, in percent, and whether ours reproduces it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from pipeline.reports.paper_results import Result
from pipeline.settings.cells import Cell


@dataclass(frozen=True)
class Number:
    """One number of a table: the paper's, ours, or both.

    Attributes:
        axes: what the number is of, as text, without seed and tuned axes; "" where its cells differ or have no such
            axis.
        metric: name of the score.
        published: as the paper prints it, in percent; "" if it has none.
        named: axes that its row of published.csv gives, as written there; {} without a row.
        label: note of published.csv.
        num_configurations: groups of the grid's cells, seed and tuned axes aside, that it is about: 0 if no cell has
            what the row says, above 1 for the extreme over several.
        picked: the cell that answers for each seed, and its result; of an extreme, only seeds of which every
            configuration has results.
        missing: listed cells that it is about and that have no usable result.
        collapsed: those whose training collapsed, and their results, which are not used.
    """

    axes: Mapping[str, str]
    metric: str
    published: str
    named: Mapping[str, str]
    label: str
    num_configurations: int
    picked: Mapping[Cell, Result]
    missing: tuple[Cell, ...]
    collapsed: Mapping[Cell, Result]

    @property
    def scores(self) -> list[float]:
        """Our numbers, one per seed."""
        return [100 * result.metrics[self.metric] for result in self.picked.values()]

    @property
    def mean(self) -> float | None:
        """Mean of `scores`."""
        return fmean(self.scores) if self.picked else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None with fewer than two."""
        return stdev(self.scores) if len(self.picked) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points."""
        return self.mean - float(self.published) if self.picked and self.published else None

    @property
    def deviation(self) -> float | None:
        """How far ours may be from published to count as reproduced: `std`, or the standard error of the test set.

        With one seed that is sqrt(p (1 - p) / N), p the accuracy and N the test images; 0 if N is not known.
        """
        if len(self.picked) != 1:
            return self.std
        (result,) = self.picked.values()
        accuracy = result.metrics[self.metric]
        return 100 * math.sqrt(accuracy * (1 - accuracy) / result.num_test) if result.num_test else 0.0

    @property
    def verdict(self) -> str:
        """Answer to the paper's number: reproduced, differs or not run; "" where there is none."""
        if not self.published:
            return ""
        if self.difference is None:
            return "differs" if self.collapsed and not self.missing else "not run"
        return "reproduced" if abs(self.difference) <= self.deviation else "differs"

    def baseline(self, kind: str) -> float | None:
        """Mean of the same score of `random_init` features or `raw_pixels`, of the seeds that have it."""
        name = f"{kind}_{self.metric}"
        found = [100 * result.metrics[name] for result in self.picked.values() if name in result.metrics]
        return fmean(found) if found else None

    def counts(self) -> tuple[int | None, int | None, int | None]:
        """Images of pretraining, labelled images of the probe and test images; None where unknown or not the same."""
        found = [
            (result.num_pretrain, result.metrics.get(f"{self.metric}_images", result.num_train), result.num_test)
            for result in self.picked.values()
        ]
        columns = [set(column) for column in zip(*found, strict=True)] or [set()] * 3
        first, second, third = (column.pop() if len(column) == 1 else None for column in columns)
        return first, second, third

    @property
    def described(self) -> str:
        """What a published number is of, in a few words."""
        axes = [f"{axis} {value}" for axis, value in self.named.items() if value]
        return ", ".join([*([self.label] if self.label else []), *axes, self.metric])

    @property
    def chosen(self) -> str:
        """What was chosen: the tuned axes, and which configuration is the extreme; "" if nothing was."""
        found = {cell.seed: self._choice(cell) for cell in self.picked}
        if len(set(found.values())) == 1:
            return next(iter(found.values()))
        return "; ".join(f"seed {seed}: {choice}" for seed, choice in found.items())

    def _choice(self, cell: Cell) -> str:
        implied = {"seed", "dataset" if cell.frozen else "", "" if cell.target else "target"}
        free = {axis: plain(value) for axis, value in cell.axes.items() if not self.axes.get(axis)}
        return ", ".join(f"{axis} {value}" for axis, value in free.items() if value and axis not in implied)


def plain(value: Any) -> str:
    """Write an axis value, so that 0.010, "1e-2" and 0.01 read the same; None is empty."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else str(number)
