"""Compare the scores of `stages.score`: `python -m stages.density [params.yaml]` writes reports/density/.

Frozen models that were scored by hand (`python -m stages.score MODEL SET`) are compared as well. Runs on whatever is
there; scores that are missing are named on stderr and in the report. Where there is nothing to compare it says why.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.density import separation
from pipeline.density.encoders import find_encoder, set_folder
from pipeline.density.methods import CORRELATIONS, NOTES, TABLE
from pipeline.pictures.extremes import typical_sheet
from pipeline.reports import density_report, figures_density
from pipeline.reports.render import csv_text
from pipeline.runtime.absent import again, attempt
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_atomically, write_text
from pipeline.runtime.project import grid_name, reports_folder
from pipeline.schema.resolved_analyses import ScoreRun
from pipeline.tracking.live_run import attach_or_warn
from stages import run


def main(params_path: str = "params.yaml") -> None:
    settings, out = ScoreRun.of_grid(params_path, "score"), reports_folder(grid_name(params_path)) / "density"
    attempt("density", out, partial(compare, settings, out), command=again("density", params_path))


def compare(settings: ScoreRun, out: Path) -> None:
    found, missing = separation.read_all(settings)
    print("".join(f"note: {line}\n" for line in missing), end="", file=sys.stderr)
    if not found:
        raise UserError(f"no run has scored its own set and others ({'; '.join(missing)})")
    encoders = [find_encoder(name, settings) for name in dict.fromkeys(name for name, _ in found)]
    areas = separation.auroc_table(found, {encoder.name: encoder.home for encoder in encoders})
    table, correlations = (
        pd.DataFrame(rows, columns=columns)
        for rows, columns in ((areas, TABLE), (separation.correlation_table(found), CORRELATIONS))
    )
    charts = {} if table.empty else {"auroc": figures_density.areas(table)}
    sheets = {}
    for name, home in ((encoder.name, encoder.home) for encoder in encoders):
        own = {scored: scores for (of, scored), scores in found.items() if of == name}
        charts[f"histogram-{name}"] = figures_density.histograms(name, home, own)
        sheets[f"sheet-{name}"] = typical_sheet(set_folder(home, settings), own[home], settings.density.num_shown)
    shutil.rmtree(out, ignore_errors=True)
    write_text(out / "table.csv", csv_text(table))
    write_text(out / "correlations.csv", csv_text(correlations))
    for name, svg in charts.items():
        write_text(out / f"{name}.svg", svg)
    for name, png in sheets.items():
        write_atomically(out / f"{name}.png", lambda file, png=png: file.write(png))
    pictures = [*(f"{name}.svg" for name in charts), *(f"{name}.png" for name in sheets)]
    report = density_report.markdown(table, correlations, encoders, pictures, missing, settings.params_path)
    write_text(out / "report.md", report)
    cells = {
        encoder.cell: [out / "table.csv", out / f"sheet-{encoder.name}.png"] for encoder in encoders if encoder.cell
    }
    attach_or_warn(grid_name(settings.params_path), cells, "density")
    write_text(out / NOTES, "".join(f"{line}\n" for line in missing))
    print("\n".join(density_report.summary(table)))


if __name__ == "__main__":
    run(main)
