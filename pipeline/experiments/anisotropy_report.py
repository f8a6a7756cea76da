"""Report of paper/figure3: bias and variance by condition number, and the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas
import torch
from torch import Tensor

from pipeline.experiments.anisotropy import PROBES, Fits, Row, Settings, fit_probes
from pipeline.experiments.figures_experiments import COLOURS, GREY, GUIDE, INK, TRUTH, Line, Panel, chart, dots, look
from pipeline.experiments.synthetic_report import Report, plus_minus, prose
from pipeline.reports.claims import Claim, markdown_table

STANDARD_ERRORS = 2  # a difference counts as one beyond so many
SHOWN_DRAWS = 100
CLAIMS = {
    ("OLS", "variance"): "OLS: variance of the coefficients rises",
    ("ridge", "squared_bias"): "ridge: squared bias rises",
    ("ridge", "variance"): "ridge: variance rises",
    ("logistic", "squared_bias"): "logistic: squared bias rises",
    ("logistic", "variance"): "logistic: variance rises",
    ("logistic", "direction_std_deg"): "logistic: the decision boundary turns more, degrees",
}
LOOKS = {probe: look(index, marker="o") for index, probe in enumerate(PROBES)}


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Answer the claim that anisotropy raises bias and variance: the largest condition number minus isotropic.

    Reproduced if the mean over seeds of the differences is above 0 by more than STANDARD_ERRORS.
    """
    table = pandas.DataFrame(rows)
    largest = table.condition_number.max()
    found = []
    for (probe, column), said in CLAIMS.items():
        by_seed = table[table.probe == probe].pivot(index="seed", columns="condition_number", values=column)
        rise = by_seed[largest] - by_seed[table.condition_number.min()]
        is_one = rise.mean() > STANDARD_ERRORS * rise.std() / math.sqrt(len(rise))
        claim = f"{said} (condition number {largest:g} minus isotropic)"
        verdict = "reproduced" if is_one else "differs"
        found.append(Claim(claim, "> 0", f"{rise.mean():.3g}", f"{rise.std():.2g}", len(rise), verdict))
    return found


def report(rows: Sequence[Row], settings: Settings) -> Report:
    """Put rows, charts and claims together."""
    ends = settings.condition_numbers[0], settings.condition_numbers[-1]
    fits = {number: fit_probes(0, number, settings) for number in ends}
    table = pandas.DataFrame(rows)
    summary = table.groupby(["probe", "condition_number"]).agg(["mean", "std"])
    charts = {
        "figure3": _bias_variance(summary),
        "figure3-boundaries": _boundaries({number: by_probe["logistic"] for number, by_probe in fits.items()}),
        "figure3-coefficients": _coefficients(fits),
    }
    values = {"settings": settings, "largest": ends[1], "standard_errors": STANDARD_ERRORS}
    text = prose("anisotropy", table=_table(summary), **values)
    title = "Figures 3, 17, 18: probes on isotropic and anisotropic embeddings"
    return Report(title, text, table, charts, claims(rows))


def _table(summary: pandas.DataFrame) -> str:
    lines = []
    for probe in PROBES:
        for number, found in summary.loc[probe].iterrows():
            cells = [_with_closed_form(found, name) for name in ("squared_bias", "variance")]
            lines.append((probe, f"{number:g}", *cells, plus_minus(*found["direction_std_deg"], ".1f")))
    return markdown_table(("probe", "condition number", "squared bias", "variance", "turn, degrees"), lines)


def _with_closed_form(found: pandas.Series, name: str) -> str:
    exact = found[f"{name}_closed_form"]["mean"]
    return plus_minus(*found[name], ".4f") + ("" if math.isnan(exact) else f" ({exact:.4f})")


def _bias_variance(summary: pandas.DataFrame) -> str:
    """Draw each measure against the condition number; bars are deviations over seeds, dashed lines closed forms."""
    panels = []
    titles = ("squared bias", "variance", "turn of the direction, degrees")
    for column, title in zip(("squared_bias", "variance", "direction_std_deg"), titles, strict=True):
        lines = []
        for probe, style in LOOKS.items():
            found = summary.loc[probe]
            lines.append(Line(found.index, found[column]["mean"], style, found[column]["std"]))
            if probe != "logistic" and column != "direction_std_deg":
                lines.append(Line(found.index, found[f"{column}_closed_form"]["mean"], GUIDE))
        panels.append(Panel(title, lines, "condition number", ticks=list(found.index), log_y=column == "variance"))
    title = "bias and variance of probes against the condition number"
    return chart(title, panels, legend={**LOOKS, "closed form": GUIDE})


def _boundaries(fits: Mapping[float, Fits]) -> str:
    """Draw embeddings and the decision boundaries of logistic probes fitted to many draws of the labels."""
    fitted = {"color": COLOURS[0], "linestyle": "-", "linewidth": 0.6, "alpha": 0.35}
    panels = []
    for number, (embeddings, coefficients, truth, _) in fits.items():
        lines = [Line(*embeddings.T.tolist(), dots(GREY))]
        lines += [Line(*_boundary(normal), fitted) for normal in coefficients[:SHOWN_DRAWS]]
        lines.append(Line(*_boundary(truth), TRUTH))
        panels.append(Panel(_shape(number), lines, square=((-4.5, 4.5), (-4.5, 4.5))))
    shown = min(SHOWN_DRAWS, len(next(iter(fits.values())).coefficients))
    legend = {f"fitted, {shown} draws": fitted, "true boundary": TRUTH}
    return chart("decision boundaries of logistic probes", panels, legend=legend, height=3.6)


def _boundary(normal: Tensor) -> tuple[list[float], list[float]]:
    x, y = normal.tolist()
    length = 10 / math.hypot(x, y)
    return [-y * length, y * length], [x * length, -x * length]


def _coefficients(fits: Mapping[float, Mapping[str, Fits]]) -> str:
    """Draw the fitted coefficients of OLS and ridge over many draws of the labels, and the true ones."""
    looks = {probe: dots(LOOKS[probe]["color"]) for probe in ("OLS", "ridge")}
    truth = {"color": INK, "linestyle": "none", "marker": "P", "markersize": 8}
    centre = next(iter(fits.values()))["OLS"].truth
    x, y = centre.tolist()
    clouds = {number: [by[probe].coefficients[:SHOWN_DRAWS] for probe in looks] for number, by in fits.items()}
    reach = 1.1 * (torch.cat([cloud for pair in clouds.values() for cloud in pair]) - centre).abs().max().item()
    panels = []
    for number, of_probes in clouds.items():
        lines = [Line(*cloud.T.tolist(), style) for cloud, style in zip(of_probes, looks.values(), strict=True)]
        square = ((x - reach, x + reach), (y - reach, y + reach))
        panels.append(Panel(_shape(number), [*lines, Line([x], [y], truth)], square=square))
    return chart("fitted coefficients of OLS and ridge", panels, legend={**looks, "truth": truth}, height=3.6)


def _shape(number: float) -> str:
    return "isotropic" if number == 1 else f"condition number {number:g}"
