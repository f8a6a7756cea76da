"""reports/density as sections of index.html, which lies beside that folder. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.csv_files import read_rows
from pipeline.density.methods import CORRELATIONS, METHODS, NOTES, TABLE
from pipeline.reports.density_report import (
    CORRELATION_NOTE,
    ELSEWHERE,
    METHOD_NOTE,
    correlation_grid,
    pairs,
    percent,
    summary,
)
from pipeline.runtime.absent import reason
from pipeline.runtime.errors import UserError

CAPTIONS = {
    "auroc": "AUROC of every method with its 95 % interval. Dashed: chance.",
    "histogram": "How scores are distributed, in-domain (filled) and on foreign images.",
    "sheet": "The most and least typical test images of each class by JEPA-SCORE, with the score.",
}
HEADINGS = ("Foreign images", "Typical images")


def section(folder: Path) -> list[tuple[str, str]]:
    """Return (heading, HTML) of what stages.density wrote.

    Args:
        folder: reports/density; links to its pictures are relative to the folder above.

    Returns:
        two sections; a single one that names the gap where the folder has no table or a broken one.
    """
    if why := reason(folder):
        return [(HEADINGS[0], f'<p class="note">{escape(why)}</p>')]
    try:
        table = [_numbers(row) for row in read_rows(folder / "table.csv", TABLE)]
        correlations = [_numbers(row) for row in read_rows(folder / "correlations.csv", CORRELATIONS)]
    except (UserError, ValueError) as error:
        told = f"{error}; run: python -m stages.density"
        return [(HEADINGS[0], f'<p class="note">Not measured: <code>{escape(told)}</code></p>')]
    verdict, *each = summary(table)
    foreign = (
        f"<p>{escape(METHOD_NOTE)}</p>"
        f'<p class="verdict">{escape(verdict)}</p>'
        + "".join(_area_table(table, name) for name in dict.fromkeys(row["trained"] for row in table))
        + f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in each)}</ul>"
        + f'<p class="note">{escape(ELSEWHERE)}</p>'
        + _notes(folder / NOTES)
        + _charts(folder, "auroc")
        + _charts(folder, "histogram")
        + f"<h3>Rank correlations</h3><p>{escape(CORRELATION_NOTE)}</p>"
        + _plain_table(*correlation_grid(correlations))
    )
    return [(HEADINGS[0], foreign), (HEADINGS[1], _sheets(folder))]


def _notes(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    whole = {name: int(row[name]) for name in ("num_in", "num_out", "num_images") if name in row}
    real = {name: row[name] for name in ("auroc", "low", "high", "spearman") if name in row}
    return {**row, **whole, **{name: float(text) if text else None for name, text in real.items()}}


def _area_table(table: Sequence[dict[str, Any]], name: str) -> str:
    """One encoder: a row for each method, a column for each foreign set; the best of a column is marked."""
    grouped = {foreign: rows for (trained, foreign), rows in pairs(table).items() if trained == name}
    heads = [name, *(f"against {foreign}" for foreign in grouped)]
    lines = []
    for method, told in METHODS.items():
        label, note = escape(told.label), escape(told.note)
        cells = [f'<th scope="row" data-value="{label}">{label}<small>{note}</small></th>']
        for rows in grouped.values():
            row = next(row for row in rows if row["method"] == method)
            mark = "score best" if row["auroc"] == max(other["auroc"] for other in rows) else "score"
            value, _, interval = percent(row).partition(" ")
            shown = f'<span class="{mark}">{value}</span><span class="std"> {interval}</span>'
            cells.append(f'<td data-value="{row["auroc"]!r}">{shown}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads)
    body = "".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _plain_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in line[1:])}</tr>'
        for line in lines
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _charts(folder: Path, kind: str) -> str:
    return "".join(
        f'<figure><div class="scroll">{path.read_text(encoding="utf-8")}</div>'
        f"<figcaption>{escape(CAPTIONS[kind])}</figcaption></figure>"
        for path in sorted(folder.glob(f"{kind}*.svg"))
    )


def _sheets(folder: Path) -> str:
    figures = []
    for path in sorted(folder.glob("sheet-*.png")):
        with Image.open(path) as picture:
            width, height = picture.size
        name = path.stem.removeprefix("sheet-")
        alt, caption = f"Most and least typical test images of {name}", f"{name}. {CAPTIONS['sheet']}"
        figures.append(
            f'<figure><div class="scroll"><img src="{escape(folder.name)}/{escape(path.name)}" alt="{escape(alt)}" '
            f'width="{width}" height="{height}" loading="lazy"></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "".join(figures)
