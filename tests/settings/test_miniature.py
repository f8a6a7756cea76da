"""Claims about miniatures: they keep the first cell and the last, which differ in every axis; published rows keep their
numbers under the new names. That they run: tests/graph/test_paper_pipelines.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from workspace import ROOT

from pipeline.settings import miniature
from pipeline.settings.grid import open_listing, published_rows

GRIDS = ["table2", "table3", "table4", "figure9"]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def whole(name: str):
    return open_listing(Path("paper") / name / "params.yaml", whole=True)


# 1. Cells


@pytest.mark.parametrize("name", GRIDS)
def test_every_axis_changes(name):
    listing = whole(name)
    for frozen in (False, True):
        cells = [cell for cell in listing.cells if cell.frozen == frozen]
        chosen = miniature.chosen_cells(cells)
        for axis in cells[0].axes if cells else []:
            values = len({cell.axes[axis] for cell in cells})
            assert len({cell.axes[axis] for cell in chosen}) == min(values, 2), axis


# 3. Settings


def test_published_rows_keep_their_numbers_under_new_names():
    listing = whole("table5")
    cells, stands = miniature.chosen_cells(listing.cells), miniature.names(listing)
    rows = miniature.published_miniature(published_rows(listing.path), cells, stands)
    assert len(rows) == len(cells)
    first = next(row for row in published_rows(listing.path) if row["backbone"] == "convnextv2_nano")
    assert rows[0] == {**first, "backbone": "test_convnext", "target": stands["flowers102"]}
