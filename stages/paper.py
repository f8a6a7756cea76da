"""One page over all tables and figures of the paper: `python -m stages.paper` writes reports/paper.md and paper.csv.

Reads the parameter files, what the pipelines left in paper/reports/claims/ and what others report (reported.csv beside
params.yaml); runs nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.reports.paper_overview import csv_table, paper_markdown, read_pipelines
from pipeline.reports.render import csv_text
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS
from stages import run

PAPER = Path("paper")


def main() -> int:
    pipelines, problems = read_pipelines(PAPER, PAPER / REPORTS / "claims")
    if not pipelines:
        print(f"no {PAPER}/*/params.yaml; run from the repository root", file=sys.stderr)
        return 1
    write_text(REPORTS / "paper.csv", csv_text(csv_table(pipelines)))
    write_text(REPORTS / "paper.md", paper_markdown(pipelines, problems, PAPER, PAPER / REPORTS))
    num_run = sum(one.claims is not None for one in pipelines)
    print(f"{REPORTS}/paper.md: {num_run} of {len(pipelines)} pipelines have a report")
    print("".join(f"broken: {line}\n" for line in problems), end="", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
