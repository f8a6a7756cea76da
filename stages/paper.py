"""One page over all tables and figures of the paper: `python -m stages.paper` writes reports/paper.md and paper.csv.

Reads what the pipelines left in paper/reports/claims/; runs nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.reports.paper_overview import paper_markdown, read_pipelines
from pipeline.reports.render import csv_text
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS
from stages import run

PAPER = Path("paper")


def main() -> int:
    summaries, found, problems = read_pipelines(PAPER, PAPER / REPORTS / "claims")
    if summaries.empty:
        print(f"no {PAPER}/*/params.yaml; run from the repository root", file=sys.stderr)
        return 1
    write_text(REPORTS / "paper.csv", csv_text(summaries))
    write_text(REPORTS / "paper.md", paper_markdown(summaries, found, PAPER / REPORTS, problems))
    print(f"{REPORTS}/paper.md: {len(found)} of {len(summaries)} pipelines have a report")
    print("".join(f"broken: {line}\n" for line in problems), end="", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
