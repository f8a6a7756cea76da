"""Compare the scores of `stages.score`: `python -m stages.density [params.yaml]` writes reports/density/.

Frozen models that were scored by hand (`python -m stages.score MODEL SET`) are compared as well. Runs on whatever is
there; scores that are missing are named on stderr and in the report.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.files import write_atomically, write_text
from pipeline.params import grid_name, load_params, reports_folder
from pipeline.published.claims import csv_text, rounded
from pipeline.typicality import figures_typicality, report, separation
from pipeline.typicality.encoders import Encoder, find_encoder
from pipeline.typicality.methods import CORRELATIONS, TABLE
from pipeline.typicality.sheet import typical_sheet
from stages import run


def main(params_path: str = "params.yaml") -> int:
    params, grid = load_params(params_path), grid_name(params_path)
    found, missing = separation.read_all(params, params_path)
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    if not found:
        print("no scores; run: dvc repro", file=sys.stderr)
        return 1
    encoders = [find_encoder(name, params, params_path) for name in dict.fromkeys(name for name, _ in found)]
    table = separation.auroc_table(found, {encoder.name: encoder.home for encoder in encoders})
    correlations = separation.correlation_table(found)
    charts = {"auroc": figures_typicality.areas(table)} if table else {}
    sheets = {}
    for name, home in ((encoder.name, encoder.home) for encoder in encoders):
        own = {scored: scores for (of, scored), scores in found.items() if of == name}
        charts[f"histogram-{name}"] = figures_typicality.histograms(name, home, own)
        sheets[f"sheet-{name}"] = typical_sheet(home, own[home], params.density.num_shown)
    out = reports_folder(grid) / "density"
    shutil.rmtree(out, ignore_errors=True)
    write_text(out / "table.csv", csv_text(TABLE, map(rounded, table)))
    write_text(out / "correlations.csv", csv_text(CORRELATIONS, map(rounded, correlations)))
    for name, svg in charts.items():
        write_text(out / f"{name}.svg", svg)
    for name, png in sheets.items():
        write_atomically(out / f"{name}.png", lambda file, png=png: file.write(png))
    pictures = [*(f"{name}.svg" for name in charts), *(f"{name}.png" for name in sheets)]
    write_text(out / "report.md", report.markdown(table, correlations, encoders, pictures, missing, params_path))
    attach(grid, encoders, out)
    print("\n".join(report.summary(table)))
    return 0


def attach(grid: str, encoders: list[Encoder], out: Path) -> None:
    """Put table and sheet among the artifacts of each picked run; trouble of the store costs no report."""
    try:
        store = tracking.Store()
        for encoder in (encoder for encoder in encoders if encoder.cell):
            files = [out / "table.csv", out / f"sheet-{encoder.name}.png"]
            if not store.attach(grid, encoder.cell, files, "density"):
                raise UserError(f"{encoder.cell} has no run; `python -m stages.sync` writes it")
    except Exception as error:  # locked, read-only or broken store
        print(f"warning: no artifacts in MLflow: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
