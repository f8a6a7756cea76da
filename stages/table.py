"""Our numbers beside the paper's: `python -m stages.table paper/<id>/params.yaml` writes table, page, chart and claims.

Runs on whatever is there; what is missing is named in the page and on stderr.
"""

from __future__ import annotations

import sys

from pipeline.reports.claims import write_claims
from pipeline.reports.paper_figures import published_against_ours
from pipeline.reports.paper_pairing import table_numbers
from pipeline.reports.paper_results import read_results
from pipeline.reports.paper_table import Table, claims, csv_table, markdown, missing
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS, repro_command
from pipeline.settings.grid import open_listing
from stages import run


def main(params_path: str) -> None:
    listing = open_listing(params_path)
    command = repro_command(params_path)
    results, problems = read_results(listing, command)
    table = Table(listing, table_numbers(listing, results), results, problems, command)
    out, name = REPORTS, listing.path.resolve().parent.name
    write_text(out / f"{name}.csv", csv_table(table))
    write_text(out / f"{name}.md", markdown(table))
    write_text(out / "plots" / f"{name}.svg", published_against_ours(table.numbers, listing.params.report.title))
    write_claims(out / "claims" / f"{name}.csv", claims(table))
    print(f"{out / name}.md: {table.counted()}")
    print("".join(f"missing: {line}\n" for line in missing(table)), end="", file=sys.stderr)


if __name__ == "__main__":
    run(main)
