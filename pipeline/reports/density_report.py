"""The report of reports/density/: who tells foreign images from in-domain ones, in Markdown and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import pandas as pd

from pipeline.density.encoders import Encoder
from pipeline.density.methods import METHODS
from pipeline.reports.render import bullets, figure, join, literal, markdown_table, signed
from pipeline.runtime.provenance import describe

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
CAPTIONS = {
    "auroc": "AUROC of every method with its 95 % interval. Dashed: chance.",
    "histogram": "How scores are distributed, in-domain (filled) and on foreign images.",
    "sheet": "The most and least typical test images of each class by JEPA-SCORE, with the score.",
}


def summary(table: pd.DataFrame) -> list[str]:
    """Say for all pairs of encoder and foreign set together, then for each, how JEPA-SCORE does beside the others.

    Args:
        table: of `separation.auroc_table`, a row per encoder, foreign set and method.
    """
    if table.empty:
        return ["No foreign set was scored: density.sets names none beside the in-domain ones."]
    pairs = table.groupby(["trained", "foreign"], sort=False)
    score, untrained = (
        table[table["method"] == name].set_index(["trained", "foreign"])
        for name in ("jepa_score", "random_init_jepa_score")
    )
    overall = (
        f"Of {len(score)} pairs of in-domain and foreign set JEPA-SCORE is the best method in "
        f"{(score['auroc'] == pairs['auroc'].max()).sum()}, better than chance in {(score['low'] > 0.5).sum()}, worse "
        f"than chance in {(score['high'] < 0.5).sum()} (the interval on one side of 50), and ahead of the same score "
        f"of the untrained network in {(score['auroc'] > untrained['auroc']).sum()}."
    )
    return [overall, *(_of_pair(pair, group.set_index("method")) for pair, group in pairs)]


def _of_pair(pair: tuple[str, str], rows: pd.DataFrame) -> str:
    best = rows[rows["auroc"] == rows["auroc"].max()]
    told = rows.apply(_interval, axis=1)
    return (
        f"{pair[0]} against {pair[1]}: best {', '.join(LABELS[name] for name in best.index)} with "
        f"{told[best.index[0]]}; JEPA-SCORE {told['jepa_score']}, rank "
        f"{1 + (rows['auroc'] > rows.loc['jepa_score', 'auroc']).sum()} of {len(rows)}; untrained network "
        f"{told['random_init_jepa_score']}."
    )


def _interval(row: Mapping[str, float]) -> str:
    """Write an area with its interval, in percent: 98.1 (97.0 to 98.8)."""
    return f"{100 * row['auroc']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def markdown(
    table: pd.DataFrame,
    correlations: pd.DataFrame,
    encoders: Iterable[Encoder],
    pictures: Iterable[str],
    missing: Sequence[str],
    params_path: str,
) -> str:
    """Write report.md.

    Args:
        table: of `separation.auroc_table`.
        correlations: of `separation.correlation_table`.
        encoders: that were compared.
        pictures: file names of charts and sheets beside the report, in order: <kind>.svg or <kind>-<encoder>.png.
        missing: one line for each thing that is not there.
        params_path: the parameter file.
    """
    origins = [f"**{literal(encoder.name)}**: {literal(_origin(encoder))}" for encoder in encoders]
    parts = [
        f"# {TITLE}",
        bullets([literal(line) for line in summary(table)]),
        METHOD_NOTE,
        ELSEWHERE,
        bullets(origins),
    ]
    if missing:
        parts += ["## Missing, or made otherwise than asked for", bullets([literal(line) for line in missing])]
    parts += ["## AUROC, %"]
    for name, group in table.groupby("trained", sort=False):
        parts += [f"### {literal(name)}", markdown_table(areas_table(group))]
    parts += ["## Rank correlations of JEPA-SCORE", CORRELATION_NOTE, markdown_table(correlations_shown(correlations))]
    parts += ["## Pictures"]
    for picture in pictures:
        kind, _, name = picture.rpartition(".")[0].partition("-")
        parts.append(figure(f"{name}: {CAPTIONS[kind]}" if name else CAPTIONS[kind], picture))
    return join(*parts, _made_by(params_path))


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
        return f"the run {encoder.cell}, selected without labels; in-domain are test images of {encoder.home}"
    return f"a frozen model, {encoder.weights}; in place of its own training images stands {encoder.home}"


def areas_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the areas of one encoder as they are shown: methods downwards, foreign sets to the right, best in bold."""
    best = rows["auroc"] == rows.groupby("foreign")["auroc"].transform("max")
    told = rows.apply(_interval, axis=1)
    rows = rows.assign(told=told.where(~best, "**" + told + "**"))
    counts = rows.drop_duplicates("foreign").set_index("foreign")
    wide = rows.pivot(index="method", columns="foreign", values="told").reindex(index=METHODS, columns=counts.index)
    wide.columns = [f"against {literal(n)} ({r['num_in']} and {r['num_out']} images)" for n, r in counts.iterrows()]
    wide.insert(0, "method", [method.label for method in METHODS.values()])
    return wide.assign(**{"what it is": [method.note for method in METHODS.values()]})


def correlations_shown(correlations: pd.DataFrame) -> pd.DataFrame:
    """Return the correlations as they are shown: a row per encoder and set, a column per score."""
    index = ["trained", "scored", "num_images"]
    told = correlations["spearman"].map(lambda rho: "undefined" if pd.isna(rho) else signed(rho))
    wide = correlations.assign(told=told).pivot(index=index, columns="other", values="told")
    order = correlations[index].drop_duplicates()
    wide = wide.reindex(index=pd.MultiIndex.from_frame(order), columns=correlations["other"].unique())
    wide.columns = [literal(_label(other)) for other in wide.columns]
    heads = dict(zip(index, ("encoder", "images of", "n"), strict=True))
    names = order.rename(columns=heads).assign(
        **{head: order[name].astype(str).map(literal) for name, head in heads.items()}
    )
    return pd.concat([names.reset_index(drop=True), wide.reset_index(drop=True)], axis=1)


def _label(other: str) -> str:
    column, _, encoder = other.partition(" of ")
    return f"{LABELS[column]} of {encoder}" if encoder else LABELS[column]
