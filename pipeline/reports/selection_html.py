"""Model selection without labels and embedding health as sections of index.html. All text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pipeline.core.results import read_json
from pipeline.reports.comparison_html import figures
from pipeline.reports.selection_report import criteria_table, read_table
from pipeline.reports.selection_text import groups
from pipeline.runtime.absent import reason
from pipeline.selection.correlation import ALL, Entry, of_group

SELECTION, HEALTH = "Model selection without labels", "Embedding health"
CAPTIONS = {
    "correlation": "Spearman correlation of training loss / λ^a with accuracy, against a; positive where a lower loss "
    "means higher accuracy. Band: 95 % bootstrap interval over runs. Crosses: the paper's runs.",
    "criteria": "The same for every label-free criterion, with its interval. Hollow: the best a in hindsight, which no "
    "one knows without labels.",
}
PLANE = (
    "The two terms of the loss at the last epoch, one point a run, coloured by accuracy. Ring: the run with the lowest "
    "training loss / λ^a, picked without labels; square: the best run by test labels."
)
HEALTH_CAPTIONS = {
    "spectra": "Eigenvalues of the covariance on test images, as multiples of their mean: 1 everywhere is an isotropic "
    "cloud.",
    "epps-pulley": "Epps-Pulley statistic of slices on test images; shaded: where 95 % of normal samples lie; in "
    "percent: slices beyond it.",
    "health": "What was watched on held-out images after every epoch.",
}
READING = (
    "ρ: Spearman correlation with accuracy over runs, +1 where the criterion puts them in the order of their "
    "accuracies, with its 95 % bootstrap interval. Regret: points under the best run by test labels; held-out labels: "
    "points under the run that is best on held-out training labels; over random: points over the mean of the runs. "
    "Within a point, above the mean: how often that holds in bootstrap resamples. Held-out losses, ranks and the like "
    "are taken on test images without their labels. table.csv and report.md in reports/diagnosis have the rest."
)


def section(folder: Path) -> list[tuple[str, str]]:
    """Make the sections from what the stage diagnose wrote; a folder that is not there is named as a gap.

    Args:
        folder: e.g. reports/diagnosis/default.

    Raises:
        UserError: summary.json or table.csv is broken.
    """
    if why := reason(folder):
        return [(SELECTION, f'<p class="note">{escape(why)}</p>')]
    if not (folder / "summary.json").exists():
        gap = f"<p>Not measured: {escape(str(folder))} is not there; run <code>python -m stages.diagnose</code>.</p>"
        return [(SELECTION, gap)]
    told, entries = read_json(folder / "summary.json"), read_table(folder / "table.csv")
    charts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.svg"))}
    names = [name for name in groups(entries) if name != ALL]
    said = "".join(f'<p class="verdict">{escape(sentence)}</p>' for sentence in told["sentences"].values())
    tables = "".join(
        f"<h3>{escape('mean over data sets' if name == ALL else name)}</h3>{_table(of_group(entries, name), told)}"
        for name in groups(entries)
    )
    shown = figures(charts, {f"plane-{name}": f"{name}. {PLANE}" for name in names} | CAPTIONS)
    found = [(SELECTION, f'{said}{shown}<p class="note">{escape(READING)}</p>{tables}')]
    healthy = {f"{kind}-{name}": f"{name}. {text}" for name in names for kind, text in HEALTH_CAPTIONS.items()}
    if drawn := figures(charts, healthy):
        found.append((HEALTH, drawn))
    return found


def _table(entries: Sequence[Entry], told: Mapping[str, float]) -> str:
    head, rows = criteria_table(entries, told["exponent"])
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in row)}</tr>'
        for name, *row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
