"""Which cells answer which row of published.csv, and whether they reproduce it: one row of a table per number.

Columns of published.csv: those named like an axis of the cells select them; `top1` is the paper's number in percent;
`metric` the score of probe/metrics.json that it is (linear_top1 where the column is missing); `reduce` (min or max)
makes the row about the extreme over all that it selects; other columns are notes, of which `label` is shown.

Axes in `grid.selected` are tuned: per seed the cell with the best accuracy on held-out training images answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reports.paper_results import COUNTS
from pipeline.reports.run_facts import together
from pipeline.runtime.errors import UserError
from pipeline.settings.cells import Cell
from pipeline.settings.grid import PUBLISHED, Listing, is_about, plain, possible_cells, published_rows

DEFAULT_METRIC = "linear_top1"
HOLDOUT = "linear_holdout_top1"
EXTREMES = ("min", "max")


def table_numbers(listing: Listing, results: pd.DataFrame) -> pd.DataFrame:
    """Pair the rows of published.csv with cells; then one number per group of cells that no row is about.

    Args:
        listing: the cells.
        results: of `paper_results.read_results`.

    Returns:
        A row per number: the axes that name its cells, as text without seed and tuned ones ("" where its cells differ);
        label, metric, `published` as the paper prints it in percent ("" if it has none), `described`: what it is of in
        a few words; and what `_Table.answer` says. `attrs["axes"]` names the axes.

    Raises:
        UserError: a row without a number or with an unknown `reduce`, or one about cells that differ in an axis that is
            neither tuned nor reduced; or nothing to show at all.
    """
    table, rows = _Table(listing, results), published_rows(listing.path)
    where = listing.path.with_name(PUBLISHED)
    numbers = [table.number(row, f"{where} line {line}") for line, row in enumerate(rows, start=2)]
    for metric in dict.fromkeys([number["metric"] for number in numbers] or [DEFAULT_METRIC]):
        mine = [row for row in rows if (row.get("metric") or DEFAULT_METRIC) == metric and not row.get("reduce")]
        others = _where(table.listed, lambda cell, rows=mine: not any(is_about(row, cell) for row in rows))
        for _, group in others.groupby(table.axes, sort=False, dropna=False):
            numbers.append(table.unpublished(group, metric))
    if not numbers:
        raise UserError(
            f"{listing.path}: neither {PUBLISHED} nor cells.yaml has anything to show; give one of them a line"
        )
    out = pd.DataFrame(numbers)
    out.attrs["axes"] = table.axes
    return out


def axis_names(more: Iterable[str]) -> tuple[str, ...]:
    """Name the axes of a grid: those that all have, then its own."""
    return ("dataset", "backbone", "lambda", "seed", "target", *more)


def described(row: Mapping[str, str], axes: Iterable[str]) -> str:
    """Say in a few words what a row of published.csv is about."""
    label, axes = row.get("label") or row.get("reduce"), set(axes)
    told = [f"{axis} {value}" for axis, value in row.items() if axis in axes and value]
    return ", ".join([*([label] if label else []), *told, row.get("metric") or DEFAULT_METRIC])


class _Table:
    """The cells of one listing as rows: their axes as text, and their results."""

    def __init__(self, listing: Listing, results: pd.DataFrame) -> None:
        grid = listing.params.grid
        possible = possible_cells(listing.path, listing.params, listing.grid)
        known = axis_names(grid.axes)
        self.known, self.tuned = known, bool(grid.selected)
        self.transfer = any(cell.target for cell in possible)
        # One column, `dataset`, holds the data set unless some cell is probed on another one than it was trained on.
        hidden = {"seed", *grid.selected, *(() if self.transfer else ("target",))}
        self.axes = [name for name in known if name not in hidden]
        self.possible, self.listed = (
            pd.DataFrame(
                [{**self._names(cell), "seed": cell.seed, "cell": cell} for cell in cells],
                index=[cell.key for cell in cells],
                columns=[*self.axes, "seed", "cell"],
            )
            for cells in (possible, listing.cells)
        )
        self.results = results

    def _names(self, cell: Cell) -> dict[str, str]:
        names = {name: plain(cell.axes.get(name)) for name in self.axes}
        if not self.transfer:
            return names | {"dataset": plain(cell.probed_on)}
        return names | {"dataset": ""} if cell.frozen else names

    def number(self, row: Mapping[str, str], where: str) -> dict[str, Any]:
        """Answer a row of published.csv; `where` names it in messages."""
        reduce = row.get("reduce") or ""
        _check(row, reduce, where)
        mine = _where(self.possible, lambda cell: is_about(row, cell))
        configurations = mine[self.axes].drop_duplicates()
        differ = [axis for axis in self.axes if configurations[axis].nunique() > 1]
        if differ and not reduce:
            raise UserError(
                f"{where} is about cells that differ in {', '.join(differ)}; add these columns to it, name tuned axes "
                "in grid.selected, or say in a column `reduce` whether it is the min or the max"
            )
        said = {axis: plain(row.get(axis)) for axis in self.known}  # of a row that no cell of the grid has
        said["dataset"] = said["dataset"] or ("" if self.transfer else said["target"])
        names = {axis: said[axis] for axis in self.axes}
        if not configurations.empty:
            names = configurations.iloc[0].to_dict() | dict.fromkeys(differ, "")
        label, metric = row.get("label") or reduce, row.get("metric") or DEFAULT_METRIC
        about = {"label": label, "metric": metric, "published": row["top1"], "num_configurations": len(configurations)}
        about["described"] = described(row, self.known)
        listed = _where(self.listed, lambda cell: is_about(row, cell))
        return self.answer(listed, names, about, reduce or "max")

    def unpublished(self, cells: pd.DataFrame, metric: str) -> dict[str, Any]:
        """Answer for a group of cells that no published row is about."""
        about = {"label": "", "metric": metric, "published": "", "num_configurations": 1, "described": ""}
        return self.answer(cells, cells.iloc[0][self.axes].to_dict(), about, "max")

    def answer(self, cells: pd.DataFrame, names: dict[str, str], about: dict[str, Any], extreme: str) -> dict[str, Any]:
        """Return a row of the table.

        Args:
            cells: listed ones that the number is about.
            names: what the axes are called in its row.
            about: label, metric, published, described, and num_configurations: how many groups of the grid's cells,
                seed and tuned axes aside, it is about (0 if no cell has what the row says).
            extreme: min or max.

        Returns:
            `names`, `about`, `mean` and `std` (n - 1; nan with fewer than two seeds) over seeds in percent,
            `difference` from the published number in points, `deviation`: how far ours may be from it to count as
            reproduced, `random_init` and `raw_pixels`: the same score of these; `verdict`: reproduced, differs, not
            run, or "" where nothing is published; `seeds`: how many answer; `missing`: keys of listed cells that have
            no usable result; `collapsed`: epochs at which others collapsed, whose results are not used; counts of
            images (nan where unknown or not the same); `chosen`: the tuned axes, and which configuration is the
            extreme; and FACTS of those that answer.
        """
        metric, published = about["metric"], about["published"]
        found = cells.join(self.results)
        collapsed = found.loc[found["collapsed_at"] > 0, "collapsed_at"]
        usable = self._usable(found.drop(index=collapsed.index), metric)
        picked = self._picked(usable, metric, extreme, about["num_configurations"])
        missing = [key for key in cells.index if key not in usable.index and key not in collapsed.index]
        scores = 100 * picked[metric].astype(float)
        mean, std = scores.mean(), scores.std()
        difference = mean - float(published) if published else math.nan
        deviation = _standard_error(picked, metric) if len(picked) == 1 else std
        verdict = "reproduced" if abs(difference) <= deviation else "differs"
        if picked.empty:
            verdict = "differs" if len(collapsed) and not missing else "not run"
        answer = {"mean": mean, "std": std, "difference": difference, "deviation": deviation}
        for kind in ("random_init", "raw_pixels"):
            answer[kind] = 100 * picked.get(f"{kind}_{metric}", pd.Series(dtype=float)).mean()
        answer |= {"verdict": verdict if published else "", "seeds": len(picked), "missing": missing}
        answer["collapsed"] = collapsed.astype(int).tolist()
        chosen = _chosen(list(picked["cell"]), names)
        return {**names, **about, **answer, **_counts(picked, metric), "chosen": chosen, **together(picked)}

    def _usable(self, found: pd.DataFrame, metric: str) -> pd.DataFrame:
        """Keep the cells that have the score, and where axes are tuned the held-out one, best of the latter first."""
        needed = [metric, HOLDOUT] if self.tuned else [metric]
        found = found.reindex(columns=found.columns.union(needed))
        return found[found[needed].notna().all(axis=1)].sort_values(needed[-1], ascending=False, kind="stable")

    def _picked(self, usable: pd.DataFrame, metric: str, extreme: str, num_configurations: int) -> pd.DataFrame:
        """Choose a cell per seed: the best on held-out images of each configuration, then the extreme of these.

        A seed of which a configuration has no result does not answer.
        """
        best = usable.drop_duplicates(["seed", *self.axes])
        best = best[best["seed"].map(best["seed"].value_counts()) == num_configurations]
        picked = best.sort_values(metric, ascending=extreme == "min", kind="stable").drop_duplicates("seed")
        return picked.sort_values("seed", kind="stable")


def _where(cells: pd.DataFrame, holds: Callable[[Cell], bool]) -> pd.DataFrame:
    """Keep the rows whose cell is such; an empty list in the brackets would keep no column."""
    return cells[np.array([holds(cell) for cell in cells["cell"]], dtype=bool)]


def _check(row: Mapping[str, str], reduce: str, where: str) -> None:
    try:
        valid = 0 <= float(row.get("top1") or "") <= 100
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{where}: top1 must be a percentage in [0, 100], got {row.get('top1')!r}; correct it")
    if reduce and reduce not in EXTREMES:
        raise UserError(f"{where}: reduce must be one of {', '.join(EXTREMES)} or empty, got {reduce!r}; correct it")


def _standard_error(picked: pd.DataFrame, metric: str) -> float:
    """Return sqrt(p (1 - p) / N) of the only answer in points, p the accuracy and N the test images; 0 if unknown."""
    accuracy, num_test = picked[metric].iloc[0], picked["num_test"].iloc[0]
    return 0.0 if pd.isna(num_test) else 100 * math.sqrt(accuracy * (1 - accuracy) / num_test)


def _counts(picked: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the images of pretraining, of the probe and of the test; nan where unknown or not the same."""
    labelled = picked.get(f"{metric}_images", pd.Series(dtype=float)).reindex(picked.index)
    counts = picked[COUNTS].assign(num_train=labelled.astype(float).fillna(picked["num_train"].astype(float)))
    return {name: counts[name].iloc[0] if counts[name].nunique(dropna=False) == 1 else math.nan for name in COUNTS}


def _chosen(cells: list[Cell], names: Mapping[str, str]) -> str:
    found = {cell.seed: _choice(cell, names) for cell in cells}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"seed {seed}: {choice}" for seed, choice in found.items())


def _choice(cell: Cell, names: Mapping[str, str]) -> str:
    implied = {"seed", "dataset" if cell.frozen else "", "" if cell.target else "target"}
    free = {axis: plain(value) for axis, value in cell.axes.items() if not names.get(axis)}
    return ", ".join(f"{axis} {value}" for axis, value in free.items() if value and axis not in implied)
