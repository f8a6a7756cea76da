"""Report of paper/figure3: bias and variance by condition number, and the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from pipeline.core.csv_files import rounded
from pipeline.experiments import plots_synthetic
from pipeline.experiments.anisotropy import PROBES, Row, Settings, fit_probes
from pipeline.experiments.synthetic_report import Report
from pipeline.reports.claims import Claim, markdown_table

STANDARD_ERRORS = 2  # a difference counts as one beyond so many
CLAIMS = {
    ("OLS", "variance"): "OLS: variance of the coefficients rises",
    ("ridge", "squared_bias"): "ridge: squared bias rises",
    ("ridge", "variance"): "ridge: variance rises",
    ("logistic", "squared_bias"): "logistic: squared bias rises",
    ("logistic", "variance"): "logistic: variance rises",
    ("logistic", "direction_std_deg"): "logistic: the decision boundary turns more, degrees",
}


class Rise(NamedTuple):
    """Anisotropic minus isotropic: mean and standard deviation of the differences of seeds, and whether it is one."""

    mean: float
    std: float
    is_one: bool


def values(rows: Sequence[Row], probe: str, column: str, condition_number: float) -> list[float]:
    """Return a column of one probe and condition number, a value per seed, in order."""
    chosen = [row for row in rows if row.probe == probe and row.condition_number == condition_number]
    return [getattr(row, column) for row in sorted(chosen, key=lambda row: row.seed)]


def rise(rows: Sequence[Row], probe: str, column: str) -> Rise:
    """Compare the largest condition number with the isotropic embeddings, seed by seed.

    It is a rise if the mean of the differences is above 0 by more than STANDARD_ERRORS.
    """
    numbers = [row.condition_number for row in rows]
    isotropic, stretched = (values(rows, probe, column, number) for number in (min(numbers), max(numbers)))
    differences = [after - before for before, after in zip(isotropic, stretched, strict=True)]
    centre, spread = mean(differences), stdev(differences)
    return Rise(centre, spread, centre > STANDARD_ERRORS * spread / math.sqrt(len(differences)))


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Answer the claim that anisotropy raises bias and variance, as differences to the isotropic embeddings."""
    largest, seeds = max(row.condition_number for row in rows), len({row.seed for row in rows})
    found = []
    for (probe, column), said in CLAIMS.items():
        here = rise(rows, probe, column)
        claim = f"{said} (condition number {largest:g} minus isotropic)"
        verdict = "reproduced" if here.is_one else "differs"
        found.append(Claim(claim, "> 0", f"{here.mean:.3g}", f"{here.std:.2g}", seeds, verdict))
    return found


def report(rows: Sequence[Row], settings: Settings) -> Report:
    """Put rows, charts and claims together."""
    ends = settings.condition_numbers[0], settings.condition_numbers[-1]
    fits = {number: fit_probes(0, number, settings) for number in ends}
    charts = {
        "figure3": plots_synthetic.bias_variance(rows),
        "figure3-boundaries": plots_synthetic.boundaries({number: by["logistic"] for number, by in fits.items()}),
        "figure3-coefficients": plots_synthetic.coefficients(fits),
    }
    text = (
        "Probes on 2-D Gaussian embeddings whose total variance is 2 whatever the condition number; the sample itself "
        "is whitened first, so both are exact. Bias and variance of the fitted coefficients over "
        f"{settings.num_draws} draws of the labels of {settings.num_samples} fixed embeddings; mean ± standard "
        f"deviation over {settings.num_seeds} seeds, which draw embeddings, direction of the true coefficients and "
        f"noise. OLS without a penalty, ridge with {settings.ridge:g}, logistic regression with "
        f"{settings.logistic_ridge:g}. In brackets the closed form; an unbiased estimate of a squared bias of 0 may be "
        "below 0. The turn of the direction is the root mean square angle of the coefficients to their mean "
        "direction, in degrees: that of the decision boundary.\n\n"
        f"{_table(rows, settings)}\n"
        "Ridge's variance need not rise with the condition number: a dimension whose squares sum to d adds "
        "label_std² d / (d + ridge)², which falls again once d is below the penalty; its bias has grown by then.\n\n"
        f"A claim counts as reproduced if the difference between condition number {ends[1]:g} and isotropic, mean over "
        f"seeds, is above 0 by more than {STANDARD_ERRORS} standard errors. The paper states no numbers here. "
        "The charts with boundaries and coefficients show seed 0."
    )
    title = "Figures 3, 17, 18: probes on isotropic and anisotropic embeddings"
    return Report(title, text, Row._fields, [rounded(row._asdict()) for row in rows], charts, claims(rows))


def _table(rows: Sequence[Row], settings: Settings) -> str:
    head = ("probe", "condition number", "squared bias", "variance", "turn, degrees")
    lines = []
    for probe in PROBES:
        for number in settings.condition_numbers:
            bias, variance = (_with_closed_form(rows, probe, name, number) for name in ("squared_bias", "variance"))
            turn = values(rows, probe, "direction_std_deg", number)
            lines.append((probe, f"{number:g}", bias, variance, f"{mean(turn):.1f} ± {stdev(turn):.1f}"))
    return markdown_table(head, lines)


def _with_closed_form(rows: Sequence[Row], probe: str, column: str, number: float) -> str:
    found = values(rows, probe, column, number)
    exact = values(rows, probe, f"{column}_closed_form", number)
    return f"{mean(found):.4f} ± {stdev(found):.4f}" + ("" if None in exact else f" ({mean(exact):.4f})")
