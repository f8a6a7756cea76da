"""Report of a paper table: CSV, claims, Markdown in the layout of the paper's, missing cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.reports.claims import Claim, claim_line
from pipeline.reports.paper_results import COUNTS
from pipeline.reports.render import ABSENT, bullets, join, literal, markdown_table, percent, points
from pipeline.reports.run_facts import FACTS, facts_line
from pipeline.settings.grid import Listing

MINIATURE = "**A miniature: these numbers test the code and say nothing about the paper.**"
MAX_LISTED = 40  # cells without results that are named one by one
READING = """\
Top-1 accuracy on the test split in percent, as `ours ± standard deviation over seeds (published, ours - published)`, or
beside the same probe at random initialisation where nothing is published; no ± with one seed, {absent} where nothing
was run. *Reproduced* means that ours is within one standard deviation over our seeds of the published number; with one
seed, within one standard error of the test set, sqrt(p (1 - p) / N) for accuracy p on N images, which ignores the
spread over trainings. Else it *differs*.\
"""


# Columns of <id>.csv after the axes, by their names in the table of `paper_pairing.table_numbers`.
MEASURED = ["ours_mean", "ours_std", "difference", "deviation", "random_init", "raw_pixels"]
COLUMNS = ["metric", "published", *MEASURED, "verdict", "seeds", "cells_missing", *COUNTS, "chosen", *FACTS]


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
    numbers: pd.DataFrame
    results: pd.DataFrame
    problems: Sequence[str]
    command: str

    @property
    def decimals(self) -> int:
        """Decimals of a percentage."""
        return self.listing.params.report.decimals

    def counted(self) -> str:
        """One line: how many published numbers there are, and what became of them."""
        verdicts = [verdict for verdict in self.numbers["verdict"] if verdict]
        found = ", ".join(f"{verdicts.count(name)} {name}" for name in ("reproduced", "differs", "not run"))
        cells = f"{len(self.results)} of {len(self.listing.cells)} cells are probed"
        return (
            f"{len(verdicts)} published numbers: {found}. {cells}." if verdicts else f"No published numbers. {cells}."
        )


def csv_table(table: Table) -> str:
    """Write one line per number; percent with four decimals, which resolves one image in a million."""
    numbers = table.numbers.rename(columns={"mean": "ours_mean", "std": "ours_std"})
    numbers = numbers.assign(cells_missing=numbers["missing"].map(len), **numbers[COUNTS].astype("Int64"))
    shown = numbers[["label", *table.numbers.attrs["axes"], *COLUMNS]]
    return shown.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def claims(table: Table) -> list[Claim]:
    """Answer every published number, with the paper's digits."""
    rows = table.numbers[table.numbers["published"] != ""].to_dict("records")
    out = []
    for row in rows:
        digits = max(table.decimals, len(row["published"].partition(".")[2]))
        ours, std = ("" if pd.isna(row[name]) else f"{row[name]:.{digits}f}" for name in ("mean", "std"))
        out.append(Claim(row["described"], row["published"], ours, std, row["seeds"], row["verdict"]))
    return out


def markdown(table: Table) -> str:
    """Write the page of the table."""
    listing, report = table.listing, table.listing.params.report
    trained = sorted(set(table.results["trained_on"].dropna()) - {""})
    lines = missing(table)
    return join(
        MINIATURE if listing.grid.startswith("miniature-") else "",
        f"# {report.title}",
        claim_line(report.claim),
        table.counted(),
        READING.format(absent=ABSENT),
        _constants(table.numbers),
        markdown_table(in_shape(table.numbers.assign(shown=_shown(table)))),
        facts_line(table.numbers),
        f"![published against ours](plots/{listing.path.resolve().parent.name}.svg)",
        *_details(table),
        *_images(table.numbers),
        *(["## Missing", bullets(lines)] if lines else []),
        f"Command: `{table.command}`. Settings: `{listing.path}`.",
        *(f"Pretrained on: {where}." for where in trained),
    )


def varying(numbers: pd.DataFrame) -> list[str]:
    """Name the axes, `metric` among them, of which the numbers have more than one value."""
    return [axis for axis in [*numbers.attrs["axes"], "metric"] if len(set(numbers[axis]) - {""}) > 1]


def _constants(numbers: pd.DataFrame) -> str:
    same = {axis: set(numbers[axis]) - {""} for axis in [*numbers.attrs["axes"], "metric"]}
    said = [f"{axis} `{next(iter(values))}`" for axis, values in same.items() if len(values) == 1]
    return f"The same in every cell that has it: {', '.join(said)}." if said else ""


def _shown(table: Table) -> list[str]:
    return [shown(row, table.decimals) for row in table.numbers.to_dict("records")]


def in_shape(numbers: pd.DataFrame) -> pd.DataFrame:
    """Lay the column `shown` out as the paper would: data sets, metrics or the last axis to the right, the rest down.

    Where two numbers would share a place, or a row two labels, it has one number a line.
    """
    axes = varying(numbers)
    across = next((axis for axis in ("target", "dataset", "metric", *axes[-1:]) if axis in axes), None)
    down = [axis for axis in axes if axis != across]
    labels = numbers[numbers["label"] != ""]
    shared = not down or numbers.duplicated([*down, across]).any()
    if shared or (labels.groupby(down)["label"].nunique() > 1).any():
        return without_empty(numbers[["label", *axes, "shown"]].rename(columns={"shown": "top-1"}))
    rows = numbers[down].drop_duplicates().reset_index(drop=True)
    heads = _in_order(list(dict.fromkeys(numbers[across])))
    wide = numbers.pivot(index=down, columns=across, values="shown")[heads].fillna("").reset_index()
    label = labels.drop_duplicates(down)[["label", *down]]
    rows = rows.merge(label, how="left", on=down).fillna({"label": ""}).merge(wide, on=down)
    prefix = "" if across in ("target", "dataset", "metric") else f"{across} "
    return without_empty(rows[["label", *down, *heads]].rename(columns={head: f"{prefix}{head}" for head in heads}))


def _in_order(values: list[str]) -> list[str]:
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out empty columns, and labels that repeat another column; what is left is escaped for Markdown."""
    text = table.astype(str)
    repeats = any((text["label"] == text[name]).all() for name in text.columns if name != "label")
    kept = [name for name in text.columns if (text[name] != "").any() and not (name == "label" and repeats)]
    return text[kept].map(literal)


def shown(row: dict, decimals: int) -> str:
    """Write a number as `72.1 ± 0.3 (published 74.2, −2.1)`; with the random initialisation where none is published."""
    published, initial = row["published"], row["random_init"]
    if not row["seeds"]:
        epochs = ", ".join(map(str, sorted(set(row["collapsed"]))))
        instead = f"collapsed (epoch {epochs})" if epochs else ABSENT
        return f"{instead} (published {published})" if published else instead
    ours = percent(row["mean"] / 100, decimals)
    if not pd.isna(row["std"]):
        ours += f" ± {percent(row['std'] / 100, decimals)}"
    if row["collapsed"]:
        ours += f", {len(row['collapsed'])} of {len(row['collapsed']) + row['seeds']} collapsed"
    if published:
        return f"{ours} (published {published}, {points(row['difference'] / 100, decimals)})"
    if pd.isna(initial):
        return ours
    change = points((row["mean"] - initial) / 100, decimals)
    return f"{ours} (random init {percent(initial / 100, decimals)}, {change})"


def _details(table: Table) -> list[str]:
    found, axes = table.numbers[table.numbers["seeds"] > 0], varying(table.numbers)
    if found.empty:
        return []
    heads = {"mean": "ours", "deviation": "deviation", "random_init": "random init", "raw_pixels": "raw pixels"}
    text = {name: found[name].map(lambda v: "" if pd.isna(v) else percent(v / 100, table.decimals)) for name in heads}
    names = [
        "label",
        *axes,
        "published",
        "mean",
        "deviation",
        "seeds",
        "verdict",
        "random_init",
        "raw_pixels",
        "chosen",
    ]
    details = found.assign(**text)[names].rename(columns=heads)
    return ["## What was measured", markdown_table(without_empty(details))]


def _images(numbers: pd.DataFrame) -> list[str]:
    found = numbers[numbers["seeds"] > 0]
    if found.empty:
        return []
    probed = found["dataset"]
    if "target" in found:
        probed = found["target"].where(found["target"] != "", probed)
    images = pd.DataFrame({"probed set": probed, "metric": found["metric"]}).join(found[COUNTS].astype("Int64"))
    heads = dict(zip(COUNTS, ("pretraining images", "labelled images", "test images"), strict=True))
    text = images.drop_duplicates().rename(columns=heads).astype(object)
    return ["## Images used", markdown_table(text.where(text.notna(), None))]


def missing(table: Table) -> list[str]:
    """Name broken files, cells without results, scores that a probe lacks, and published rows that no cell answers."""
    lines = list(table.problems)
    cells = {cell.key: cell for cell in table.listing.cells}
    todo = [key for key in cells if key not in table.results.index]
    if todo:
        lines.append(f"{len(todo)} of {len(cells)} cells have no results; run: `{table.command}`")
    if todo and len(table.results):
        lines += [f"`{table.command}:probe@{key}`" for key in todo[:MAX_LISTED]]
        lines += [f"and {len(todo) - MAX_LISTED} more"] * (len(todo) > MAX_LISTED)
    for row in table.numbers.to_dict("records"):
        lacking = [cells[key] for key in row["missing"] if key in table.results.index]
        lines += [f"{cell.folder}/probe/metrics.json: what {row['metric']} needs is not in it" for cell in lacking]
        if row["published"] and not row["num_configurations"]:
            lines.append(f"{row['described']}: no cell of {table.listing.path} has it")
        elif row["published"] and not row["seeds"] and not row["missing"]:
            lines.append(f"{row['described']}: its cells are left out of cells.yaml")
    return list(dict.fromkeys(lines))
