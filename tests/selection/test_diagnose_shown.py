"""Claims about the pictures of stages.diagnose: charts name what they show, whatever the names look like, and draw few
runs as well; the page's section shows sentences, tables and charts, escapes names, and names a folder that is not
there.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from diagnosed_cells import OUT, enter, write_grid, write_params

from pipeline.reports import figures_selection, selection_html, selection_report
from pipeline.reports.figures_selection import charts
from pipeline.selection.correlation import select
from pipeline.selection.criteria import Run
from stages import diagnose


@pytest.fixture(autouse=True)
def _a_repository(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)


def a_grid(num_lambdas, datasets=("d$_1$<i>",)):
    runs = []
    for dataset, i in product(datasets, range(num_lambdas)):
        values = {"train_loss": 1.0 + i, "pred_loss": 0.1 * 10**i, "sigreg_loss": 2.0 - 0.1 * i, "rankme": i}
        runs.append(Run(f"{dataset}--vit--{i}", dataset, "vit", 0.1, 0.9 - i / 10, None, values))
    return runs, select(runs, exponent=0.4, num_draws=100)


def texts(svg):
    return {"".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")}


def test_charts_name_what_they_show():
    runs, entries = a_grid(4)
    paper = selection_report.read_paper(diagnose.PAPER)
    made = charts(runs, entries, exponent=0.4, label="linear", paper=paper)
    assert list(made) == ["plane-d$_1$<i>", "correlation", "criteria"]
    shown = texts(made["plane-d$_1$<i>"])
    assert {"d$_1$<i>", "vit", "picked without labels", "best by test labels", "linear top-1, %"} <= shown
    assert {"a in loss / λ^a", "the rule, a = 0.4", "the paper"} <= texts(made["correlation"])
    assert {"train loss / λ^0.4, the rule", "train loss / λ^a, hindsight", "rankme"} <= texts(made["criteria"])
    assert figures_selection.plane(runs, runs[0].key, "linear") == made["plane-d$_1$<i>"]


def test_few_runs_draw_what_there_is():
    runs, entries = a_grid(2, ("a", "b"))
    assert figures_selection.plane(runs[:1], "", "linear").startswith("<svg")
    shown = texts(figures_selection.correlation(entries, 0.4, []))
    assert {"fewer than three runs,", "or all of them alike", "mean over data sets"} <= shown


def test_the_section_shows_what_the_folder_has():
    write_grid(write_params())
    diagnose.main()
    (name, shown), (health, drawn) = selection_html.section(OUT)
    assert (name, health) == ("Model selection without labels", "Embedding health")
    assert shown.count("<svg") == drawn.count("<svg") == 1 and shown.count('class="verdict"') == 2
    assert shown.count("<table>") == 3 and "train loss / λ^0.4, the rule" in shown and "mean over data sets" in shown
    ElementTree.fromstring(f"<div>{shown}{drawn}</div>")


def test_a_folder_that_is_not_there_is_a_gap():
    ((name, gap),) = selection_html.section(Path("reports/diagnosis/<none>"))
    assert name == "Model selection without labels" and "python -m stages.diagnose" in gap and "&lt;none&gt;" in gap


def test_names_are_escaped():
    write_grid(write_params(datasets=["digits"]))
    diagnose.main()
    evil = "<script>alert(1)</script>"
    for name in ("table.csv", "summary.json"):
        text = (OUT / name).read_text(encoding="utf-8").replace("digits", evil)
        (OUT / name).write_text(text, encoding="utf-8")
    (_, shown), *_ = selection_html.section(OUT)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
