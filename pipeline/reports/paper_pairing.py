"""Which cells answer which row of published.csv.

Columns of published.csv: those named like an axis of the cells select them; `top1` is the paper's number in percent;
`metric` the score of probe/metrics.json that it is (linear_top1 where the column is missing); `reduce` (min or max)
makes the row about the extreme over all that it selects; other columns are notes, of which `label` is shown.

Axes in `grid.selected` are tuned: per seed the cell with the best accuracy on held-out training images answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.reports.paper_numbers import Number, plain
from pipeline.reports.paper_results import Result
from pipeline.runtime.errors import UserError
from pipeline.settings.cells import Cell
from pipeline.settings.grid import PUBLISHED, Listing, is_about, possible_cells, published_rows

DEFAULT_METRIC = "linear_top1"
HOLDOUT = "linear_holdout_top1"
EXTREMES = {"min": min, "max": max}


def table_numbers(listing: Listing, results: Mapping[Cell, Result]) -> list[Number]:
    """Pair the rows of published.csv with cells; then one number per group of cells that no row is about.

    Raises:
        UserError: a row without a number or with an unknown `reduce`, or one about cells that differ in an axis that is
            neither tuned nor reduced; or nothing to show at all.
    """
    table = _Table(listing)
    rows = published_rows(listing.path)
    answers = [
        table.number(row, results, where=f"{listing.path.with_name(PUBLISHED)} line {line}")
        for line, row in enumerate(rows, start=2)
    ]
    for metric in dict.fromkeys([number.metric for number in answers] or [DEFAULT_METRIC]):
        mine = [row for row in rows if (row.get("metric") or DEFAULT_METRIC) == metric and not row.get("reduce")]
        others = [cell for cell in listing.cells if not any(is_about(row, cell) for row in mine)]
        answers += [table.unpublished(group, metric, results) for group in table.groups(others).values()]
    if not answers:
        raise UserError(
            f"{listing.path}: neither {PUBLISHED} nor cells.yaml has anything to show; give one of them a line"
        )
    return answers


class _Table:
    """How the cells of one listing are named and grouped."""

    def __init__(self, listing: Listing) -> None:
        self.listed = listing.cells
        self.possible = possible_cells(listing.path, listing.params, listing.grid)
        self.selected = listing.params.grid.selected
        self.transfer = any(cell.target for cell in self.possible)
        self.known = ("dataset", "backbone", "lambda", "seed", "target", *listing.params.grid.axes)

    def axes(self, cell: Cell) -> dict[str, str]:
        """Axes that name a cell in the table, as text.

        One column, `dataset`, holds the data set unless some cell is probed on another one than it was trained on.
        """
        axes = {name: plain(cell.axes.get(name)) for name in self.known}
        if not self.transfer:
            axes["dataset"] = axes.pop("target")
        elif cell.frozen:
            axes["dataset"] = ""
        return self._shown(axes)

    def groups(self, cells: Iterable[Cell]) -> dict[tuple, list[Cell]]:
        """Put cells together that differ in seed and tuned axes alone."""
        out: dict[tuple, list[Cell]] = {}
        for cell in cells:
            out.setdefault(tuple(self.axes(cell).items()), []).append(cell)
        return out

    def number(self, row: Mapping[str, str], results: Mapping[Cell, Result], where: str) -> Number:
        """Answer a row of published.csv; `where` names it in messages."""
        reduce = row.get("reduce") or ""
        _check(row, reduce, where)
        possible = [cell for cell in self.possible if is_about(row, cell)]
        found = [dict(axes) for axes in self.groups(possible)]
        differ = [axis for axis in (found[0] if found else ()) if len({axes[axis] for axes in found}) > 1]
        if differ and not reduce:
            raise UserError(
                f"{where} is about cells that differ in {', '.join(differ)}; add these columns to it, name tuned axes "
                "in grid.selected, or say in a column `reduce` whether it is the min or the max"
            )
        axes = {axis: "" if axis in differ else value for axis, value in found[0].items()} if found else self._said(row)
        metric = row.get("metric") or DEFAULT_METRIC
        listed = [cell for cell in self.listed if is_about(row, cell)]
        return Number(
            axes,
            metric,
            published=row["top1"],
            named={axis: value for axis, value in row.items() if axis in self.known},
            label=row.get("label") or reduce,
            num_configurations=len(found),
            **self._answer(listed, metric, results, EXTREMES.get(reduce, max), len(found)),
        )

    def unpublished(self, cells: Sequence[Cell], metric: str, results: Mapping[Cell, Result]) -> Number:
        """Answer for a group of cells that no published row is about."""
        return Number(self.axes(cells[0]), metric, "", {}, "", 1, **self._answer(cells, metric, results, max, 1))

    def _said(self, row: Mapping[str, str]) -> dict[str, str]:
        """Axes of a row that no cell of the grid has: what it says itself."""
        axes = {axis: plain(row.get(axis)) for axis in self.known}
        if not self.transfer:
            axes["dataset"] = axes["dataset"] or axes["target"]
            del axes["target"]
        return self._shown(axes)

    def _shown(self, axes: Mapping[str, str]) -> dict[str, str]:
        return {axis: value for axis, value in axes.items() if axis not in ("seed", *self.selected)}

    def _answer(
        self,
        cells: Sequence[Cell],
        metric: str,
        results: Mapping[Cell, Result],
        extreme: Callable[..., Cell],
        num_configurations: int,
    ) -> dict[str, Any]:
        """Choose a cell per seed: the best on held-out images of each configuration, then the extreme of these."""
        needed = {metric, HOLDOUT} if self.selected else {metric}
        collapsed = {cell: results[cell] for cell in cells if cell in results and results[cell].collapsed_at}
        measured = [cell for cell in cells if cell in results and needed <= results[cell].metrics.keys()]
        usable = [cell for cell in measured if cell not in collapsed]
        picked = {}
        for seed in dict.fromkeys(cell.seed for cell in usable):
            configurations = self.groups(cell for cell in usable if cell.seed == seed).values()
            best = [max(group, key=lambda cell: results[cell].metrics.get(HOLDOUT, 0.0)) for group in configurations]
            if len(best) == num_configurations:
                cell = extreme(best, key=lambda cell: results[cell].metrics[metric])
                picked[cell] = results[cell]
        missing = tuple(cell for cell in cells if cell not in usable and cell not in collapsed)
        return {"picked": picked, "missing": missing, "collapsed": collapsed}


def _check(row: Mapping[str, str], reduce: str, where: str) -> None:
    try:
        valid = 0 <= float(row.get("top1") or "") <= 100
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{where}: top1 must be a percentage in [0, 100], got {row.get('top1')!r}; correct it")
    if reduce and reduce not in EXTREMES:
        raise UserError(f"{where}: reduce must be one of {', '.join(EXTREMES)} or empty, got {reduce!r}; correct it")
