"""Claims about stages.paper, its page and the table of all numbers.

1. Every pipeline under paper/ has a part: title and claim of its parameter file (of a grid's `report`, or top level),
   its command, and how many of its published numbers are reproduced, differ or were not run.
2. Every published number stands beside what others report of it, with its source, and ours or "not run"; only what
   paper/reports/claims/ holds counts as measured. What others report of no published number is listed alike.
3. Settings are stated or guesses, as the comments say; a `based_on` is counted. Images of other splits are told.
4. A broken file is named and the rest is written.
5. index.html shows the page, each pipeline behind a line.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from csv_tables import csv_rows

from pipeline.reports.claims import Claim, write_claims
from pipeline.reports.page_sections import paper_sections
from stages import paper

GRID = """\
report: {title: "Table 2: transfer", claim: "On a par | with <others>."}
grid:
  datasets: [dtd, cifar10, food101] # Table 2
  axes:
    num_views: {sets: [pretrain.views.num_global], values: [2, 4]} # Table 2
pretrain:
  batch_size: 512 # not stated; chosen because it is usual
  views: # the paper's default
    flip_prob: 0.5 # figure 9, and so the next lines
    hue: 0.1
  # appendix B
  epochs: 400
  device: auto # never changes a result
probe: {holdout_frac: 0.2}
overrides:
  - when: {backbone: "vit*"}
    pretrain: {optimizer: {lr: 0.1}} # Table 3
"""
BASED = """\
based_on: table2
grid: {lambdas: [0.05]} # Table 10
pretrain: {epochs: 100} # chosen
"""
FIGURE = 'title: "Figure 10: loss"\nclaim: Loss tells accuracy\n'
PUBLISHED = "dataset,num_views,top1\ndtd,2,74.20\ncifar10,2,90.00\nfood101,4,70.00\n"
REPORTED = """\
dataset,num_views,metric,top1,how,source
food101,4,,60,half the epochs,https://example.org/issues/1
food101,4.0,linear_top1,61 to 65,same,https://example.org/issues/2
food101,4,knn_top1,50,k-NN,https://example.org/issues/2
vit on food101,,,15,no | projector,https://example.org/issues/3
"""
FOUND = [
    Claim("dataset dtd, num_views 2, linear_top1", "74.20", "74.10", "0.30", 3, "reproduced"),
    Claim("dataset cifar10, num_views 2, linear_top1", "90.00", "80.00", "", 1, "differs"),
    Claim("dataset food101, num_views 4, linear_top1", "70.00", "", "", 0, "not run"),
]


@pytest.fixture(autouse=True)
def _a_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("paper/table2/params.yaml", GRID)
    write("paper/table2/published.csv", PUBLISHED)
    write("paper/table2/reported.csv", REPORTED)
    write("paper/images.csv", "dataset,paper,here,note\ndtd,13000,9469,other pictures\naircraft,1,1,\n")
    write("paper/table10/params.yaml", BASED)
    write("paper/table10/published.csv", "dataset,top1\ndtd,12.34\n")
    write("paper/figure10/params.yaml", FIGURE)
    write("paper/notes/README.md", "no pipeline\n")
    write_claims(Path("paper/reports/claims/table2.csv"), FOUND)


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def read(path):
    return Path(path).read_text(encoding="utf-8")


def part(title):
    """Return the part of the page under a heading."""
    return read("reports/paper.md").partition(f"## {title}\n")[2].partition("\n## ")[0]


# 1. Pipelines


def test_a_part_per_pipeline():
    assert paper.main() == 0
    text = read("reports/paper.md")
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## Figure 10: loss", "## Table 2: transfer", "## table10"]
    assert "| table2 | Table 2: transfer | 3 | 4 | 1 | 1 | 1 | `dvc repro paper/table2/dvc.yaml` |" in text
    assert "| table10 | – | 1 | 0 | 0 | 0 | 1 | `dvc repro paper/table10/dvc.yaml` |" in text
    assert "Under test: Loss tells accuracy.\n" in part("Figure 10: loss")
    assert "Not run; make it with `dvc repro paper/figure10/dvc.yaml`." in part("Figure 10: loss")
    assert "Under test: On a par | with <others>.\n" in part("Table 2: transfer")


# 2. Numbers


def test_published_beside_others_and_ours():
    write("paper/reports/table2.md", "# Table 2\n")
    paper.main()
    text = part("Table 2: transfer")
    for number in ("74.20; ours 74.10 ± 0.30, reproduced", "90.00; ours 80.00, differs"):
        assert f"| {number} |" in text
    assert "| 70.00; others 60, 61 to 65; not run |" in text
    for line in (
        "- food101, num_views 4: **60**, half the epochs ([example.org/issues/1](https://example.org/issues/1))",
        "- food101, num_views 4, knn_top1: **50**, k-NN",
        "- vit on food101: **15**, no \\| projector",
    ):
        assert line in text
    assert "1 of 3 not run; make them with `dvc repro paper/table2/dvc.yaml`." in text
    assert "[table2.md](../paper/reports/table2.md)" in text
    assert "| 12.34; not run |" in part("table10") and "table10.md" not in read("reports/paper.md")


def test_the_table_of_all_numbers():
    paper.main()
    rows = csv_rows("reports/paper.csv")
    assert [(row["pipeline"], row["published"], row["reported"], row["ours"], row["verdict"]) for row in rows] == [
        ("table2", "74.20", "", "74.10", "reproduced"),
        ("table2", "90.00", "", "80.00", "differs"),
        ("table2", "70.00", "60, 61 to 65", "", "not run"),
        ("table10", "12.34", "", "", "not run"),
    ]


# 3. Settings and images


def test_settings_are_stated_or_guesses():
    paper.main()
    stated, guessed = part("Table 2: transfer").split("### Settings that are ")[1:]
    assert "- figure 9, and so the next lines: `pretrain.views.flip_prob: 0.5`, `pretrain.views.hue: 0.1`\n" in stated
    assert "- appendix B: `pretrain.epochs: 400`\n" in stated
    assert '- Table 3: `overrides {backbone: "vit*"}.pretrain.optimizer.lr: 0.1`' in stated
    assert "`grid.axes.num_views: [2, 4]`" in stated and "device" not in stated + guessed
    assert "- not stated; chosen because it is usual: `pretrain.batch_size: 512`\n" in guessed
    assert "- no source is given: `probe.holdout_frac: 0.2`" in guessed


def test_settings_of_what_it_is_based_on():
    paper.main()
    stated, guessed = part("table10").split("### Settings that are ")[1:]
    assert "- Table 10: `grid.lambdas: [0.05]`\n- all else that is stated: as in table2\n" in stated
    assert "- chosen: `pretrain.epochs: 100`\n" in guessed and "`pretrain.batch_size: 512`" in guessed
    assert "epochs: 400" not in stated + guessed


def test_images_of_another_split_are_told():
    paper.main()
    assert "| dtd | 13000 | 9469 | other pictures |" in part("Table 2: transfer")
    assert "aircraft" not in read("reports/paper.md")


# 4. Broken files


def test_broken_files_are_named(capsys):
    write("paper/reports/claims/table2.csv", "claim,ours\ndtd,99\n")
    write("paper/figure10/params.yaml", "title: [\n")
    write("paper/table10/reported.csv", "dataset,top1\ndtd,98\n")
    assert paper.main() == 0
    said = capsys.readouterr().err
    assert "broken: paper/reports/claims/table2.csv must have the columns" in said
    assert "paper/figure10/params.yaml" in said
    assert "broken: paper/table10/reported.csv: every row needs top1, how, source" in said
    text = read("reports/paper.md")
    assert "## Broken files" in text and "99" not in text and "98" not in text and "## figure10\n" in text
    assert "3 of 3 not run" in part("Table 2: transfer")


# 5. The page


def test_index_shows_every_pipeline_behind_a_line():
    assert paper_sections(Path("reports/paper.md")) == []
    paper.main()
    (section,) = paper_sections(Path("reports/paper.md"))
    assert section.body.count("<details") == 3 and "Table 2: transfer</summary>" in section.body
    assert "70.00; others 60, 61 to 65; not run</td>" in section.body and "<h1" not in section.body
