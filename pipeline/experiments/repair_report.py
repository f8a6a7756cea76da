"""Report of figures 6 and 16: means over seeds, the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pipeline.core.csv_files import rounded
from pipeline.experiments import plots_descent
from pipeline.experiments.repair import CONTROL, MEASURES, START
from pipeline.experiments.synthetic_report import Report
from pipeline.reports.claims import Claim, markdown_table, mean_and_std, origin_line

Row = Mapping[str, Any]
PARTS = ("mean", "std")
AXES = {"x_left": "share of the X left", "energy_distance": "energy distance to N(0, I)"}
COLUMNS = (
    *("statistic", "dim", "num_slices", "seeds", "overflowed", "repaired"),
    *(f"{name}_{part}" for name in MEASURES for part in PARTS),
    *(f"{name}_within" for name in AXES),
)
LABELS = {
    START: "before descent",
    "epps_pulley": "Epps-Pulley",
    "vcreg": "VCReg",
    "extended_jarque_bera": "extended Jarque-Bera",
    "moments": "moments",
    "cramer_von_mises": "Cramér-von Mises",
    "watson": "Watson",
    "anderson_darling": "Anderson-Darling",
    "shapiro_wilk": "Shapiro-Wilk",
    "bhep": "BHEP",
    "henze_zirkler": "Henze-Zirkler",
    "henze_visagie": "Henze-Visagie",
    "comb": "COMB",
    CONTROL: "control: random walk",
}
# What the paper's pictures show: (statistic, measure, in words, whether it is as small as that of Gaussian samples).
PUBLISHED = (
    ("epps_pulley", "x_left", "X gone", True),
    ("epps_pulley", "energy_distance", "as Gaussian samples", True),
    ("vcreg", "x_left", "X stays", False),
    ("extended_jarque_bera", "x_left", "X stays", False),
)
# (D, S) of figure 6, then of figure 16.
PAPER_PLACES = ((1024, 10), (1024, 100), (128, 10), (128, 100))


def summarise(rows: Sequence[Row], reference: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Average over seeds.

    Args:
        rows: of `repair.measure`.
        reference: of `repair.gaussian_reference`.

    Returns:
        One row of COLUMNS for each statistic, D and S, in the order they come in. `<measure>_within` counts the seeds
        whose measure is not above the bound of Gaussian samples, `repaired` those for which no measure is;
        `overflowed` those without a result.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["statistic"], row["dim"], row["num_slices"]), []).append(row)
    return [_summary(key, group, reference) for key, group in groups.items()]


def _summary(key: tuple, group: Sequence[Row], reference: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    finite = [row for row in group if row["finite"]]
    within = {name: [row[name] <= reference[name]["bound"] for row in finite] for name in AXES}
    repaired = sum(map(all, zip(*within.values(), strict=True)))
    found = {name: mean_and_std([row[name] for row in finite]) if finite else (None, None) for name in MEASURES}
    return {
        **dict(zip(COLUMNS, (*key, len(group), len(group) - len(finite), repaired), strict=False)),
        **{f"{name}_{part}": value for name in MEASURES for part, value in zip(PARTS, found[name], strict=True)},
        **{f"{name}_within": sum(values) for name, values in within.items()},
    }


def clouds(rows: Sequence[Row]) -> dict[tuple[int, int], dict[str, Any]]:
    """Pick the points of the first seed: {(D, S): {statistic: N pairs or None}}, the cloud before descent first."""
    seed = rows[0]["seed"]
    places = sorted({(row["dim"], row["num_slices"]) for row in rows if row["num_slices"] is not None})
    return {
        place: {
            row["statistic"]: row["points"]
            for row in rows
            if row["seed"] == seed
            and (row["statistic"] == START or (row["dim"], row["num_slices"]) == place)
            and row["dim"] == place[0]
        }
        for place in places
    }


def claims(summary: Sequence[Row]) -> list[Claim]:
    """Compare with the paper's pictures: one claim for each of its D and S and each entry of PUBLISHED.

    A measure counts as that of Gaussian samples if it stays within their bound for more than half of the seeds.
    """
    found = {(row["statistic"], row["dim"], row["num_slices"]): row for row in summary}
    return [_claim(found.get((entry[0], *place)), place, *entry) for place, entry in product(PAPER_PLACES, PUBLISHED)]


def _claim(row: Row | None, place: tuple[int, int], name: str, measure: str, published: str, is_small: bool) -> Claim:
    text = f"{AXES[measure]} after descent on {LABELS[name]}, D {place[0]}, S {place[1]}"
    if row is None or row["overflowed"] == row["seeds"]:
        return Claim(text, published, "", "", 0, "not run")
    verdict = "reproduced" if (2 * row[f"{measure}_within"] > row["seeds"]) == is_small else "differs"
    mean, std = row[f"{measure}_mean"], row[f"{measure}_std"]
    return Claim(text, published, f"{mean:.3f}", "" if std is None else f"{std:.3f}", row["seeds"], verdict)


def report(measured: Mapping[str, Any]) -> Report:
    """Put the report together.

    Args:
        measured: what stages.figure6 wrote: settings, origin, reference and rows of `repair.measure`.
    """
    rows, reference = measured["rows"], measured["reference"]
    summary = summarise(rows, reference)
    bounds = {name: values["bound"] for name, values in reference.items()}
    charts = {"figure6": plots_descent.leftovers(summary, LABELS, bounds, AXES)}
    for (dim, num_slices), points in clouds(rows).items():
        title = f"D = {dim}, S = {num_slices}"
        charts[f"figure6-{dim}d-{num_slices}s"] = plots_descent.clouds(points, LABELS, title)
    text = "\n".join([_method(measured), _control_note(summary), *_tables(summary)])
    return Report(
        "Figures 6 and 16: which statistic repairs an X",
        text,
        COLUMNS,
        list(map(rounded, summary)),
        charts,
        claims(summary),
    )


def _method(measured: Mapping[str, Any]) -> str:
    settings, reference = measured["settings"], measured["reference"]
    bounds = {
        name: f"{reference[name]['mean']:.3f}, 97.5 % of them below {reference[name]['bound']:.3f}"
        for name in reference
    }
    return (
        f"N = {settings['num_samples']} samples in D dims, N(0, 1) but for the first two: x2 = ±x1, around "
        f"({settings['shift']:g}, {settings['shift']:g}). {settings['num_steps']} steps of Adam on the samples "
        f"themselves, learning rate {settings['lr']:g}, S fresh directions a step; {len(settings['seeds'])} seeds. "
        f"{origin_line(measured['origin'])}\n\n"
        f"- **X left**: −Σ r² cos 4θ / Σ r² of the first two dims around their mean; 1 is an X, fresh Gaussian "
        f"samples have {bounds['x_left']}.\n"
        f"- **energy distance** of the first two dims to N(0, I); fresh Gaussian samples have "
        f"{bounds['energy_distance']}.\n"
        f"- **spread**: root mean square of the first two dims around their mean; 1 is right.\n"
        f"- **places kept**: correlation of the points' places before and after; 1: they stayed.\n"
        f"- **repaired**: seeds for which both measures stay within those bounds.\n"
    )


def _control_note(summary: Sequence[Row]) -> str:
    """Say how far random steps of the same size get, without which the table above means little."""
    walks = [row for row in summary if row["statistic"] == CONTROL and row["overflowed"] < row["seeds"]]
    told = "; ".join(f"D {r['dim']}, S {r['num_slices']}: {_spread(r, 'x_left')}" for r in walks)
    return (
        "The verdicts take the pictures as they are: is an X left? Adam's steps have the size of the learning rate "
        "whatever the gradient, so samples also diffuse. The control moves them by random signs instead of a "
        f"statistic; it leaves this share of the X: {told or 'not run'}. Where the control leaves none, a vanished X "
        "says nothing about the statistic, and only the energy distance tells a statistic from noise. D = 2 is not in "
        "the paper: there every direction sees the X, while of N samples in D dims, D above N, it sees next to none.\n"
    )


def _tables(summary: Sequence[Row]) -> Iterator[str]:
    head = ("statistic", "X left", "energy distance", "spread", "places kept", "repaired")
    for dim, num_slices in sorted({(r["dim"], r["num_slices"]) for r in summary if r["num_slices"] is not None}):
        rows = [r for r in summary if r["dim"] == dim and r["num_slices"] in (num_slices, None)]
        yield f"## D = {dim}, S = {num_slices}\n"
        yield markdown_table(
            head, [(LABELS[r["statistic"]], *(_spread(r, name) for name in MEASURES), _repaired(r)) for r in rows]
        )


def _repaired(row: Row) -> str:
    overflowed = f" ({row['overflowed']} overflowed)" if row["overflowed"] else ""
    return f"{row['repaired']} of {row['seeds']}{overflowed}"


def _spread(row: Row, name: str) -> str:
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    return "" if mean is None else f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
