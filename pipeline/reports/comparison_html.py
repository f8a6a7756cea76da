"""The comparison as sections of index.html: (heading, HTML) pairs for `html.page`. All text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from pipeline.reports.comparison import (
    ABSENT,
    Row,
    Score,
    Style,
    alarm_lines,
    backbone_label,
    by_dataset,
    columns,
    entry,
    left_out,
    reading,
    score_label,
    verdict,
)

CAPTIONS = {
    "accuracy": "Top-1 accuracy against λ. Dotted: the same backbone at random initialisation. Grey dashes: raw "
    "pixels. Bars: the standard deviation of the table, where there is one.",
    "curves": "Loss by epoch: total, prediction and SIGReg; the axis is logarithmic where values differ more than "
    "twentyfold.",
}


def comparison(
    rows: Sequence[Row],
    gains: Sequence[Row],
    scores: Sequence[str],
    charts: Mapping[str, str],
    missing: Sequence[str],
    style: Style,
) -> list[tuple[str, str]]:
    """Sections of the comparison, in reading order.

    Args:
        rows: rows of `tables.summarise`.
        gains: rows of `tables.improvements`.
        scores: columns to show, of `tables.score_columns`.
        charts: SVG text under `accuracy-<data set>` and `curves-<data set>`; absent ones are left out.
        missing: one line per cell without results.
        style: how numbers and links are written.
    """
    out = [("Overview", overview(gains, style) + f'<p class="note">{escape(reading(rows))}</p>')]
    for dataset, group in by_dataset(rows).items():
        shown = {f"{kind}-{dataset}": CAPTIONS[kind] for kind in ("accuracy", "curves")}
        said = f'<p class="verdict">{escape(verdict(group, scores, style))}</p>'
        alarms = "".join(f'<p class="note">{escape(line)}</p>' for line in alarm_lines(group))
        out.append((dataset, _table(group, scores, style) + alarms + said + figures(charts, shown)))
    if missing:
        out.append(("Missing cells", missing_list(missing)))
    return out


def overview(gains: Sequence[Row], style: Style) -> str:
    """Cards with the mean gain over random init, one per data set."""
    cards = []
    for gain in gains:
        stats = "".join(
            f'<div class="stat"><b class="{_sign(found["mean"], style)}">{style.points(found["mean"])}</b>'
            f"<span>{escape(score_label(score))}</span><small>{found['num_better']} of {found['n']} gain</small></div>"
            for score, found in gain["gains"].items()
        )
        note = f'<p class="note">{left_out(gain)}</p>' if gain["num_collapsed"] else ""
        head = f"<h3>{escape(gain['dataset'])}</h3>"
        cards.append(f'<article class="card">{head}<div class="stats">{stats}</div>{note}</article>')
    lead = "<p>Learned minus random initialisation in points, the mean over the cells of each data set.</p>"
    return f'{lead}<div class="cards">{"".join(cards)}</div>'


def figures(charts: Mapping[str, str], captions: Mapping[str, str]) -> str:
    """Those of `charts` that have a caption, in the order of the captions; a wide one scrolls in its own box."""
    return "".join(
        f'<figure><div class="scroll">{charts[name]}</div><figcaption>{escape(caption)}</figcaption></figure>'
        for name, caption in captions.items()
        if name in charts
    )


def missing_list(missing: Sequence[str]) -> str:
    """Cells without results, with the reason and the remedy."""
    return "<ul>" + "".join(f"<li><code>{escape(line)}</code></li>" for line in missing) + "</ul>"


def _table(rows: Sequence[Row], scores: Sequence[str], style: Style) -> str:
    heads = columns(rows, scores)
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heads[:-1])
    body = "".join(_table_row(rows, row, scores, style, heads) for row in rows)
    head += f'<th scope="col">{heads[-1]}</th>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table_row(rows: Sequence[Row], row: Row, scores: Sequence[str], style: Style, heads: Sequence[str]) -> str:
    name = escape(row["backbone"])
    breaks = re.sub(r"([_.\-])", r"\1<wbr>", escape(backbone_label(row)))  # where a narrow screen may break the name
    params = f"{row['num_params'] / 1e6:.3g} M parameters"
    seeds = ["num_seeds"] if "n" in heads else []
    cells = [f'<th scope="row" data-value="{name}">{breaks}<small>{params}</small></th>']
    cells += [f'<td data-value="{row[key]!r}">{row[key]:g}</td>' for key in ("lambda", *seeds)]
    cells += [_table_entry(entry(rows, row, score, style), style) for score in scores]
    cells.append(f'<td data-value="{row["train_loss"]!r}">{row["train_loss"]:.4g}</td>')
    cells.append(f'<td data-value="{row["epochs"]}">{row["epochs"]}</td>')
    return f"<tr>{''.join(cells)}<td>{'<br>'.join(_run(run, style) for run in row['run_ids']) or ABSENT}</td></tr>"


def _table_entry(found: Score, style: Style) -> str:
    spread = "" if found.std is None else f'<span class="std"> ± {style.percent(found.std)}</span>'
    mark = "score best" if found.best else "score"
    if found.learned is None:
        parts = [f'<td data-value=""><span class="score">{found.collapsed or ABSENT}</span><dl>']
    else:
        number = f'<span class="{mark}">{style.percent(found.learned)}</span>{spread}'
        note = f"<br><small>{found.collapsed}</small>" if found.collapsed else ""
        parts = [f'<td data-value="{found.learned:.9g}">{number}{note}<dl>']
    for label, other, best in found.baselines:
        shown = f"<b>{style.percent(other)}</b>" if best else style.percent(other)
        delta = None if None in (other, found.learned) else found.learned - other
        change = "" if delta is None else f'<i class="{_sign(delta, style)}">{style.points(delta)}</i>'
        parts.append(f"<dt>{escape(label)}</dt><dd>{shown}{change}</dd>")
    return "".join([*parts, "</dl></td>"])


def _run(run_id: str, style: Style) -> str:
    short = f"<code>{escape(run_id[:8])}</code>"
    return f'<a href="{escape(style.link(run_id))}">{short}</a>' if style.run_url else short


def _sign(delta: float, style: Style) -> str:
    """Colour of a difference; what is shown as zero has none."""
    return {"+": "up", "−": "down", "±": "even"}[style.points(delta)[0]]
