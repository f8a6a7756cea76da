"""Claims about pipeline.reports.paper_overview and stages.paper.

1. Every pipeline under paper/ has a line: title and claim of its parameter file (of a grid's `report`, or top level),
   its command, and how many of its published numbers are reproduced, differ or were not run.
2. Only what paper/reports/claims/ holds counts as measured; a pipeline that was not run shows no number of ours.
3. A broken file is named and the rest is written.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.reports.claims import Claim, write_claims
from stages import paper

GRID = 'report: {title: "Table 2: transfer", claim: "On a par | with <others>."}\ngrid: {}\n'
FIGURE = 'title: "Figure 10: loss"\nclaim: Loss tells accuracy\n'
FOUND = [
    Claim("dtd, linear_top1", "74.20", "74.10", "0.30", 3, "reproduced"),
    Claim("cifar10, linear_top1", "90.00", "80.00", "", 1, "differs"),
    Claim("food101, linear_top1", "70.00", "", "", 0, "not run"),
]


@pytest.fixture(autouse=True)
def _a_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("paper/table2/params.yaml", GRID)
    write("paper/table2/published.csv", "dataset,top1\ndtd,74.20\ncifar10,90.00\nfood101,70.00\n")
    write("paper/table10/params.yaml", "grid: {}\n")
    write("paper/table10/published.csv", "dataset,top1\ndtd,12.34\n")
    write("paper/figure10/params.yaml", FIGURE)
    write("paper/notes/README.md", "no pipeline\n")
    write_claims(Path("paper/reports/claims/table2.csv"), FOUND)


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def read(path):
    return Path(path).read_text(encoding="utf-8")


def rows():
    with Path("reports/paper.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_line_per_pipeline():
    assert paper.main() == 0
    assert list(rows()) == ["figure10", "table2", "table10"]
    assert rows()["table2"] == {
        "id": "table2",
        "title": "Table 2: transfer",
        "claim": "On a par | with <others>.",
        "command": "dvc repro paper/table2/dvc.yaml",
        **{"published": "3", "reproduced": "1", "differs": "1", "not_run": "1"},
    }
    figure, table = rows()["figure10"], rows()["table10"]
    assert (figure["title"], figure["claim"], figure["published"]) == ("Figure 10: loss", "Loss tells accuracy", "0")
    assert (table["title"], table["published"], table["not_run"]) == ("", "1", "1")


def test_the_page_shows_what_was_measured_alone():
    write("paper/reports/table2.md", "# Table 2\n")
    paper.main()
    text = read("reports/paper.md")
    assert "| table2 | Table 2: transfer | 3 | 1 | 1 | 1 | `dvc repro paper/table2/dvc.yaml` |" in text
    assert "| dtd, linear_top1 | 74.20 | 74.10 ± 0.30 | 3 | reproduced |" in text
    assert "| cifar10, linear_top1 | 90.00 | 80.00 | 1 | differs |" in text
    assert "food101" not in text and "1 of 3 not run; make them with `dvc repro paper/table2/dvc.yaml`." in text
    assert "[table2.md](../paper/reports/table2.md)" in text and "table10.md" not in text and "12.34" not in text
    assert "## figure10" not in text and "Not run; make it with `dvc repro paper/figure10/dvc.yaml`." in text
    assert "Under test: On a par | with <others>.\n" in text


def test_broken_files_are_named(capsys):
    write("paper/reports/claims/table2.csv", "claim,ours\ndtd,99\n")
    write("paper/figure10/params.yaml", "title: [\n")
    assert paper.main() == 0
    said = capsys.readouterr().err
    assert "broken: paper/reports/claims/table2.csv must have the columns" in said
    assert "paper/figure10/params.yaml" in said
    assert (rows()["table2"]["not_run"], rows()["figure10"]["title"]) == ("3", "")
    assert "## Broken files" in read("reports/paper.md") and "99" not in read("reports/paper.md")
