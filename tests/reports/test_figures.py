"""Claims about pipeline.reports.figures and figures_comparison.

1. Every figure is well-formed XML without a date, refers to nothing outside itself, and names its backbones and data
   sets as text.
2. Names that look like markup or mathematics are shown literally.
3. Cells that collapsed are not drawn; the legend says how many.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from grid_results import make_cells, pretrain_metrics, probe_metrics, write_cell, write_grid

from pipeline.reports import figures, figures_comparison, tables

pytestmark = pytest.mark.seconds

LABELS = {"linear_top1": "linear", "knn_top1": "k-NN", "linear_top1_1shot": "1-shot", "linear_top1_10shot": "10-shot"}


def draw(root, cells, labels=LABELS):
    write_grid(root, cells)
    frame, _ = tables.collect(cells, root)
    curves, _ = tables.histories(cells, root)
    return figures_comparison.comparison(tables.summarise(frame), curves, labels)


@pytest.fixture(scope="module")
def charts(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("grid"), make_cells())


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_self_contained(charts):
    for svg in charts.values():
        ElementTree.fromstring(svg)
        assert not re.search(r"\b20\d\d-\d\d-\d\d", svg) and "<metadata>" not in svg
        assert set(re.findall(r'href="(.)', svg)) <= {"#"} and "url(h" not in svg and "@import" not in svg


def test_what_is_written(charts):
    shown = texts(charts["accuracy-digits"])
    assert {"linear", "k-NN", "1-shot", "10-shot", "test_vit", "random init", "raw pixels", "0.02", "0.1"} <= set(shown)
    shown = texts(charts["curves-digits"])
    assert {"total", "prediction", "SIGReg", "λ = 0.02", "test_resnet", "epoch"} <= set(shown)


def test_strange_names_are_literal(tmp_path):
    cells = make_cells(datasets=("a$b$<i>&",), backbones=("x$_2$", "y"))
    charts = draw(tmp_path, cells, {"linear_top1": "linear"})
    assert "x$_2$" in texts(charts["accuracy-a$b$<i>&"])
    assert "y" in texts(charts["curves-a$b$<i>&"])


@pytest.mark.parametrize(("num_collapsed", "told"), [(0, None), (1, "1 collapsed cell"), (2, "2 collapsed cells")])
def test_collapsed_cells_are_counted_not_drawn(tmp_path, num_collapsed, told):
    cells = make_cells(datasets=("digits",), backbones=("a", "b", "c"), lambdas=(0.05,))
    for i, cell in enumerate(cells):
        alarms = {"collapse": 3} if i < num_collapsed else {}
        write_cell(tmp_path, cell, pretrain_metrics(alarms=alarms), probe_metrics())
    rows = tables.summarise(tables.collect(cells, tmp_path)[0])
    charts = figures_comparison.comparison(rows, tables.histories(cells, tmp_path)[0], {"linear_top1": "linear"})
    for svg in charts.values():
        said = [text for text in texts(svg) if text.endswith("left out")]
        assert said == ([f"{told} left out"] if told else [])
    num_lines = [len(re.findall(f"<path d=[^>]*{colour}", charts["curves-digits"])) for colour in figures.COLOURS[:3]]
    assert num_lines == [1 if i < num_collapsed else 4 for i in range(3)]  # one in the legend, one a panel
