"""Report of a paper table: CSV, claims, Markdown, missing cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.csv_files import csv_text
from pipeline.reports.claims import Claim, markdown_table
from pipeline.reports.paper_numbers import Number
from pipeline.reports.paper_overview import claim_line
from pipeline.reports.paper_results import Result
from pipeline.reports.paper_shape import coordinate, in_shape, varying, without_empty
from pipeline.reports.render import ABSENT
from pipeline.reports.render import percent as as_percent
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

MINIATURE = "**A miniature: these numbers test the code and say nothing about the paper.**"
MAX_LISTED = 40  # cells without results that are named one by one
READING = """\
Top-1 accuracy on the test split in percent, as `ours ± standard deviation over seeds (published, ours - published)`, or
beside the same probe at random initialisation where nothing is published; no ± with one seed, {absent} where nothing
was run. *Reproduced* means that ours is within one standard deviation over our seeds of the published number; with one
seed, within one standard error of the test set, sqrt(p (1 - p) / N) for accuracy p on N images, which knows nothing of
the spread over trainings. Else it *differs*.\
"""


@dataclass(frozen=True)
class Table:
    """All that the report of one pipeline says.

    Attributes:
        listing: its cells.
        numbers: of `paper_pairing.table_numbers`.
        results: of `paper_results.read_results`.
        problems: of `paper_results.read_results`.
        command: what makes the whole pipeline.
    """

    listing: Listing
    numbers: Sequence[Number]
    results: Mapping[Cell, Result]
    problems: Sequence[str]
    command: str

    @property
    def decimals(self) -> int:
        """Decimals of a percentage."""
        return self.listing.params.report.decimals

    def counted(self) -> str:
        """One line: how many published numbers there are, and what became of them."""
        verdicts = [number.verdict for number in self.numbers if number.published]
        found = ", ".join(f"{verdicts.count(name)} {name}" for name in ("reproduced", "differs", "not run"))
        cells = f"{len(self.results)} of {len(self.listing.cells)} cells are probed"
        return (
            f"{len(verdicts)} published numbers: {found}. {cells}." if verdicts else f"No published numbers. {cells}."
        )


def csv_table(table: Table) -> str:
    """Write one line per number; percent with four decimals, which resolves one image in a million."""
    rows = [_csv_row(number) for number in table.numbers]
    return csv_text(list(rows[0]) if rows else ["metric"], rows)


def _csv_row(number: Number) -> dict[str, str | int]:
    measured = {
        "ours_mean": number.mean,
        "ours_std": number.std,
        "difference": number.difference,
        "deviation": number.deviation,
        "random_init": number.baseline("random_init"),
        "raw_pixels": number.baseline("raw_pixels"),
    }
    written = {name: "" if value is None else f"{value:.4f}" for name, value in measured.items()}
    counts = dict(zip(("num_pretrain", "num_train", "num_test"), number.counts(), strict=True))
    return {
        "label": number.label,
        **number.axes,
        "metric": number.metric,
        "published": number.published,
        **written,
        "verdict": number.verdict,
        "seeds": len(number.picked),
        "cells_missing": len(number.missing),
        **{name: "" if value is None else int(value) for name, value in counts.items()},
        "chosen": number.chosen,
    }


def claims(table: Table) -> list[Claim]:
    """Answer every published number, with the paper's digits."""
    return [_claim(number, table.decimals) for number in table.numbers if number.published]


def _claim(number: Number, decimals: int) -> Claim:
    digits = max(decimals, len(number.published.partition(".")[2]))
    ours, std = ("" if value is None else f"{value:.{digits}f}" for value in (number.mean, number.std))
    return Claim(number.described, number.published, ours, std, len(number.picked), number.verdict)


def markdown(table: Table) -> str:
    """Write the page of the table."""
    listing, report = table.listing, table.listing.params.report
    trained = sorted({result.trained_on for result in table.results.values() if result.trained_on})
    parts = [
        MINIATURE if listing.grid.startswith("miniature-") else "",
        f"# {report.title}",
        claim_line(report.claim),
        table.counted(),
        READING.format(absent=ABSENT),
        _constants(table.numbers),
        in_shape(table.numbers, table.decimals),
        f"![published against ours](plots/{listing.path.resolve().parent.name}.svg)",
        *_details(table),
        *_images(table.numbers),
        *_missing_section(table),
        f"Command: `{table.command}`. Settings: `{listing.path}`.",
        *(f"Pretrained on: {where}." for where in trained),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _constants(numbers: Sequence[Number]) -> str:
    same = {axis: {coordinate(number, axis) for number in numbers} - {""} for axis in (*numbers[0].axes, "metric")}
    said = [f"{axis} `{next(iter(values))}`" for axis, values in same.items() if len(values) == 1]
    return f"The same in every cell that has it: {', '.join(said)}." if said else ""


def _details(table: Table) -> list[str]:
    numbers, axes = [number for number in table.numbers if number.picked], varying(table.numbers)

    def percent(value: float | None) -> str:
        return "" if value is None else as_percent(value / 100, table.decimals)

    head = ["label", *axes, "published", "ours", "deviation", "seeds", "verdict", "random init", "raw pixels", "chosen"]
    rows = [
        [
            *(number.label, *(coordinate(number, axis) for axis in axes)),
            *(number.published, percent(number.mean), percent(number.deviation), str(len(number.picked))),
            *(number.verdict, percent(number.baseline("random_init")), percent(number.baseline("raw_pixels"))),
            number.chosen,
        ]
        for number in numbers
    ]
    return ["## What was measured", without_empty([head, *rows])] if rows else []


def _images(numbers: Sequence[Number]) -> list[str]:
    rows = dict.fromkeys(
        (number.axes.get("target") or number.axes["dataset"], number.metric, *number.counts())
        for number in numbers
        if number.picked
    )
    head = ["probed set", "metric", "pretraining images", "labelled images", "test images"]
    return ["## Images used", markdown_table(head, rows)] if rows else []


def _missing_section(table: Table) -> list[str]:
    lines = missing(table)
    return ["## Missing", "\n".join(f"- {line}" for line in lines)] if lines else []


def missing(table: Table) -> list[str]:
    """Name broken files, cells without results, scores that a probe lacks, and published rows that no cell answers."""
    lines = list(table.problems)
    todo = [cell.key for cell in table.listing.cells if cell not in table.results]
    if todo:
        lines.append(f"{len(todo)} of {len(table.listing.cells)} cells have no results; run: `{table.command}`")
    if todo and table.results:
        lines += [f"`{table.command}:probe@{key}`" for key in todo[:MAX_LISTED]]
        lines += [f"and {len(todo) - MAX_LISTED} more"] * (len(todo) > MAX_LISTED)
    for number in table.numbers:
        lacking = [cell for cell in number.missing if cell in table.results]
        lines += [f"{cell.folder}/probe/metrics.json: what {number.metric} needs is not in it" for cell in lacking]
        if number.published and not number.num_configurations:
            lines.append(f"{number.described}: no cell of {table.listing.path} has it")
        elif number.published and not number.picked and not number.missing:
            lines.append(f"{number.described}: its cells are left out of cells.yaml")
    return list(dict.fromkeys(lines))
