"""The report of reports/density/: who tells foreign images from in-domain ones, in Markdown and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from pipeline.density.encoders import Encoder
from pipeline.density.methods import METHODS
from pipeline.reports.claims import markdown_table
from pipeline.runtime.provenance import describe

Row = Mapping[str, Any]
TITLE = "Typical and foreign images: JEPA-SCORE beside its rivals"
LABELS = {**{name: method.label for name, method in METHODS.items()}, "pixel_mean": "brightness"}
METHOD_NOTE = (
    "JEPA-SCORE is the log-sum of the singular values of the Jacobian of the embedding with respect to the input "
    "(arXiv 2510.05949). AUROC: the chance, in percent, that an in-domain test image gets a more typical score than a "
    "foreign one; 50 is chance, below 50 foreign images look the more typical. Each direction was fixed beforehand and "
    "none is flipped. Intervals of 95 % (DeLong) are over images, not over training seeds."
)
CORRELATION_NOTE = (
    "Spearman's rho of the exact score with its sketch, with other scores of the same images of one set (each with the "
    "sign that makes high typical; brightness as it is), and with the exact score of other encoders. With n images the "
    "standard error of an absent correlation is 1 / sqrt(n - 1)."
)
ELSEWHERE = (
    "An evaluation by others, CIFAR-10 against SVHN with DINOv2 ViT-S/14 and 500 images a side, found 72.9 for "
    "JEPA-SCORE in 32 minutes, 96.5 for k-NN and 100.0 for Mahalanobis distance (github.com/dokime-ai/dokime); a later "
    "one by the same author 84.1 for JEPA-SCORE (github.com/itsanderz/jepa-score-eval)."
)


def pairs(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group the AUROCs by (encoder, foreign set)."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["trained"], row["foreign"]), []).append(row)
    return grouped


def percent(row: Row) -> str:
    """Write an area with its interval: 98.1 (97.0 to 98.8)."""
    return f"{100 * row['auroc']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def summary(rows: Sequence[Row]) -> list[str]:
    """Say for all pairs together, then for each, how JEPA-SCORE does beside the others."""
    grouped = pairs(rows)
    if not grouped:
        return ["No foreign set was scored: density.sets names none beside the in-domain ones."]
    found = [{row["method"]: row for row in group} for group in grouped.values()]
    scores = [rows["jepa_score"] for rows in found]
    num_best = sum(
        row["auroc"] == max(r["auroc"] for r in rows.values()) for row, rows in zip(scores, found, strict=True)
    )
    gains = [rows["jepa_score"]["auroc"] - rows["random_init_jepa_score"]["auroc"] for rows in found]
    overall = (
        f"Of {len(grouped)} pairs of in-domain and foreign set JEPA-SCORE is the best method in {num_best}, better "
        f"than chance in {sum(row['low'] > 0.5 for row in scores)}, worse than chance in "
        f"{sum(row['high'] < 0.5 for row in scores)} (the interval on one side of 50), and ahead of the same score of "
        f"the untrained network in {sum(gain > 0 for gain in gains)}."
    )
    return [overall, *(_of_pair(pair, group) for pair, group in grouped.items())]


def _of_pair(pair: tuple[str, str], group: Sequence[Row]) -> str:
    ordered = sorted(group, key=lambda row: -row["auroc"])
    found = {row["method"]: row for row in group}
    score, init = found["jepa_score"], found["random_init_jepa_score"]
    rank = 1 + sum(row["auroc"] > score["auroc"] for row in group)
    ties = [LABELS[row["method"]] for row in ordered if row["auroc"] == ordered[0]["auroc"]]
    return (
        f"{pair[0]} against {pair[1]}: best {', '.join(ties)} with {percent(ordered[0])}; JEPA-SCORE {percent(score)}, "
        f"rank {rank} of {len(group)}; untrained network {percent(init)}."
    )


def markdown(
    table: Sequence[Row],
    correlations: Sequence[Row],
    encoders: Iterable[Encoder],
    pictures: Iterable[str],
    missing: Sequence[str],
    params_path: str,
) -> str:
    """Write report.md.

    Args:
        table: rows of `separation.auroc_table`.
        correlations: rows of `separation.correlation_table`.
        encoders: that were compared.
        pictures: file names of charts and sheets beside the report, in order.
        missing: one line for each thing that is not there.
        params_path: the parameter file.
    """
    lines = [f"# {TITLE}", "", *(f"- {line}" for line in summary(table)), "", METHOD_NOTE, "", ELSEWHERE, ""]
    lines += [f"- **{encoder.name}**: {_origin(encoder)}" for encoder in encoders]
    lines += ["", "## AUROC, %", ""]
    for name in dict.fromkeys(row["trained"] for row in table):
        lines += [f"### {name}", "", _areas([row for row in table if row["trained"] == name])]
    lines += ["## Rank correlations of JEPA-SCORE", "", CORRELATION_NOTE, "", correlation_markdown(correlations)]
    lines += ["## Pictures", "", *(f"![{picture}]({picture})\n" for picture in pictures)]
    if missing:
        lines += ["## Missing, or made otherwise than asked for", "", *(f"- {line}" for line in missing), ""]
    return "\n".join([*lines, _made_by(params_path), ""])


def _made_by(params_path: str) -> str:
    machine = describe("cpu")
    hardware, versions = machine["hardware"], machine["versions"]
    return (
        f"Command: `python -m stages.density {params_path}`. Settings: `density` in `{params_path}`. "
        f"Date: {date.today().isoformat()}. Machine: {hardware['cpu']}, {hardware['num_cpus']} CPUs; "
        f"Python {versions['python']}, torch {versions['torch']}."
    )


def _origin(encoder: Encoder) -> str:
    if encoder.cell:
        return f"the run {encoder.cell}, picked without labels; in-domain are test images of {encoder.home}"
    return f"a frozen model, {encoder.weights}; in place of its own training images stands {encoder.home}"


def _areas(rows: Sequence[Row]) -> str:
    foreign = list(dict.fromkeys(row["foreign"] for row in rows))
    found = {(row["method"], row["foreign"]): row for row in rows}
    best = {name: max(row["auroc"] for row in rows if row["foreign"] == name) for name in foreign}
    lines = []
    for method, told in METHODS.items():
        areas = [found[method, name] for name in foreign]
        cells = [f"**{percent(row)}**" if row["auroc"] == best[row["foreign"]] else percent(row) for row in areas]
        lines.append((told.label, *cells, told.note))
    counts = {name: (found["jepa_score", name]["num_in"], found["jepa_score", name]["num_out"]) for name in foreign}
    heads = [f"against {name} ({num_in} and {num_out} images)" for name, (num_in, num_out) in counts.items()]
    return markdown_table(("method", *heads, "what it is"), lines)


def correlation_grid(correlations: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Turn correlations into heads and lines of text: a line for each encoder and set, a column for each score."""
    others = list(dict.fromkeys(row["other"] for row in correlations))
    heads = ["encoder", "images of", "n", *(_label(other) for other in others)]
    found = {(row["trained"], row["scored"], row["other"]): row for row in correlations}
    lines = []
    for name, scored in dict.fromkeys((row["trained"], row["scored"]) for row in correlations):
        rows = [found.get((name, scored, other)) for other in others]
        num = next(row["num_images"] for row in rows if row)
        lines.append([name, scored, str(num), *("" if not row else _rho(row["spearman"]) for row in rows)])
    return heads, lines


def correlation_markdown(correlations: Sequence[Row]) -> str:
    """Write the correlations as a table."""
    heads, lines = correlation_grid(correlations)
    return markdown_table(heads, lines)


def _label(other: str) -> str:
    column, _, encoder = other.partition(" of ")
    return f"{LABELS[column]} of {encoder}" if encoder else LABELS[column]


def _rho(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2f}".replace("-", "−")
