"""Claims about the pictures of stages.diagnose: charts name what they show, whatever the names look like; the page's
section shows sentences, tables and charts.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from diagnosed_cells import OUT, enter, write_grid, write_params

from pipeline.reports import figures_selection, selection_report
from pipeline.reports.figures_selection import charts
from pipeline.reports.page_sections import report_section
from pipeline.selection.correlation import select
from pipeline.selection.criteria import Run
from stages import diagnose

pytestmark = pytest.mark.seconds


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
    assert {"d$_1$<i>", "vit", "selected without labels", "best by test labels", "linear top-1, %"} <= shown
    assert {"a in loss / λ^a", "the rule, a = 0.4", "the paper"} <= texts(made["correlation"])
    assert {"train loss / λ^0.4, the rule", "train loss / λ^a, hindsight", "rankme"} <= texts(made["criteria"])
    assert figures_selection.plane(runs, runs[0].key, "linear") == made["plane-d$_1$<i>"]


def section(folder=OUT):
    return report_section(folder, "Model selection", "python -m stages.diagnose", Path("reports")).body


def test_the_section_shows_what_the_folder_has():
    write_grid(write_params())
    diagnose.main()
    shown = section()
    assert shown.count("<svg") == 2 and "train loss / λ^0.4, the rule" in shown and "mean over data sets" in shown
    assert "<h3>Embedding health</h3>" in shown and "digits: take digits--test_vit--lambda0.02--seed0" in shown
    ElementTree.fromstring(f"<div>{shown}</div>")
