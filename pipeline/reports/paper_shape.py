"""A Markdown table in the layout of the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reports.claims import markdown_table
from pipeline.reports.paper_numbers import Number
from pipeline.reports.render import ABSENT, percent, points


def varying(numbers: Sequence[Number]) -> list[str]:
    """Name the axes, `metric` among them, of which the numbers have more than one value."""
    axes = [*(numbers[0].axes if numbers else ()), "metric"]
    return [axis for axis in axes if len({coordinate(number, axis) for number in numbers} - {""}) > 1]


def coordinate(number: Number, axis: str) -> str:
    """Return the number's value on an axis, where `metric` counts as one."""
    return number.metric if axis == "metric" else number.axes[axis]


def in_shape(numbers: Sequence[Number], decimals: int) -> str:
    """Write the table as the paper would: data sets, metrics or the last axis to the right, the rest downwards.

    Where two numbers would share a place, or a row two labels, it has one number a line.
    """
    axes = varying(numbers)
    across = next((axis for axis in ("target", "dataset", "metric", *axes[-1:]) if axis in axes), None)
    down = [axis for axis in axes if axis != across]
    groups: dict[tuple[str, ...], list[Number]] = {}
    for number in numbers:
        groups.setdefault(tuple(coordinate(number, axis) for axis in down), []).append(number)
    if not down or any(not _fits_a_row(group, across) for group in groups.values()):
        rows = [
            [number.label, *(coordinate(number, axis) for axis in axes), shown(number, decimals)] for number in numbers
        ]
        return without_empty([["label", *axes, "top-1"], *rows])
    heads = _in_order(dict.fromkeys(coordinate(number, across) for number in numbers))
    rows = []
    for names, group in groups.items():
        entries = {coordinate(number, across): shown(number, decimals) for number in group}
        label = next((number.label for number in group if number.label), "")
        rows.append([label, *names, *(entries.get(head, "") for head in heads)])
    prefix = "" if across in ("target", "dataset", "metric") else f"{across} "
    return without_empty([["label", *down, *(prefix + head for head in heads)], *rows])


def _fits_a_row(group: Sequence[Number], across: str) -> bool:
    heads = [coordinate(number, across) for number in group]
    return len(set(heads)) == len(heads) and len({number.label for number in group} - {""}) <= 1


def _in_order(values: Sequence[str]) -> list[str]:
    try:
        return sorted(values, key=float)
    except ValueError:
        return list(values)


def without_empty(lines: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table (heads first) without its empty columns, and without labels that repeat another column."""
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    columns = [column for column in columns if column[0] != "label" or all(column[1:] != c[1:] for c in columns[1:])]
    head, *rows = zip(*columns, strict=True)
    return markdown_table(head, rows)


def shown(number: Number, decimals: int) -> str:
    """Write a number as `72.1 ± 0.3 (published 74.2, −2.1)`; with the random initialisation where none is published."""
    if not number.picked:
        return f"{_instead(number)} (published {number.published})" if number.published else _instead(number)
    ours = percent(number.mean / 100, decimals) + (
        "" if number.std is None else f" ± {percent(number.std / 100, decimals)}"
    )
    if number.collapsed:
        ours += f", {len(number.collapsed)} of {len(number.collapsed) + len(number.picked)} collapsed"
    if number.published:
        return f"{ours} (published {number.published}, {points(number.difference / 100, decimals)})"
    initial = number.baseline("random_init")
    if initial is None:
        return ours
    return f"{ours} (random init {percent(initial / 100, decimals)}, {points((number.mean - initial) / 100, decimals)})"


def _instead(number: Number) -> str:
    epochs = sorted({result.collapsed_at for result in number.collapsed.values()})
    return f"collapsed (epoch {', '.join(map(str, epochs))})" if epochs else ABSENT
