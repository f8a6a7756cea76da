"""Say which run to take without labels: `python -m stages.diagnose [params.yaml]` writes reports/diagnosis/<grid>/.

Runs on whatever is there; cells without results are named on stderr and in the report. The picked runs are tagged in
MLflow.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from pipeline.reports import figures_health, figures_selection, selection_text
from pipeline.reports.comparison import score_label
from pipeline.reports.selection_report import Diagnosis, markdown, read_paper, read_table, table_csv
from pipeline.runtime.absent import again, attempt, reason
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json, write_text
from pipeline.runtime.project import REPORTS, repro_command
from pipeline.selection import picks
from pipeline.selection.correlation import select
from pipeline.selection.criteria import RULE, Criterion
from pipeline.selection.runs import incomparable_settings, read_runs
from pipeline.settings.grid import Listing, open_listing
from pipeline.tracking.live_run import tag_or_warn
from stages import run

PAPER = Path(__file__).parents[1] / "pipeline/selection/published_correlations.csv"


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    out = REPORTS / "diagnosis" / listing.grid
    command = again("diagnose", params_path)
    attempt("diagnosis", out, partial(diagnose, listing, params_path, out), command=command)
    for name in listing.params.grid.datasets if listing.grid == "default" else ():
        if not (pick := out / "picks" / f"{name}.json").exists():  # what depends on it has to be told why
            write_json(pick, {"absent": reason(out) or "no run of this data set has results"})


def diagnose(listing: Listing, params_path: str, out: Path) -> None:
    grid, settings = listing.grid, listing.params.diagnose
    command, rule = repro_command(params_path), Criterion(RULE, settings.exponent).label
    found, paper = read_runs(listing, command), read_paper(PAPER)
    print("".join(f"missing: {line}\n" for line in found.problems), end="", file=sys.stderr)
    if not found.runs:
        raise UserError(f"no cell of grid {grid!r} has results under runs/{grid}; make them with: {command}")
    shutil.rmtree(out, ignore_errors=True)
    runs = list(found.runs.values())
    write_text(out / "table.csv", table_csv(select(runs, exponent=settings.exponent, num_draws=settings.num_draws)))
    entries = read_table(out / "table.csv")  # what is said and drawn has the digits of the table
    said = selection_text.sentences(entries, settings.exponent, settings.score)
    write_json(out / "summary.json", {"rule": rule, **settings.model_dump(), "sentences": said})
    charts = figures_selection.charts(
        runs, entries, exponent=settings.exponent, label=score_label(settings.score), paper=paper
    )
    charts |= figures_health.charts(picks.drawn_cells(found.health, picks.rule_entries(entries, settings.exponent)))
    for name, svg in charts.items():
        write_text(out / f"{name}.svg", svg)
    trained_on, caution = sorted({run.trained_on for run in runs}), incomparable_settings(listing)
    about = (paper, caution, trained_on, found.problems, command, str(listing.path))
    diagnosis = Diagnosis(grid, entries, settings.exponent, settings.score, *about)
    write_text(out / "report.md", markdown(diagnosis, charts))
    print("\n".join(said.values()))
    for name, document in picks.documents(listing, found.runs, entries, settings.exponent).items():
        write_json(out / "picks" / f"{name}.json", document)
    tag_or_warn(grid, dict.fromkeys(picks.picked(entries, settings.exponent).values(), rule))


if __name__ == "__main__":
    run(main)
