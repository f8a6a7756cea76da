"""Claims about miniatures: they keep the first cell and the last, which differ in every axis; every stand-in is bundled
or tiny, two names of a family get two of them; published rows keep numbers under the new names.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from workspace import ROOT

from pipeline.settings import miniature
from pipeline.settings.grid import open_listing, published_rows
from pipeline.settings.params import read_sections

GRIDS = ["table2", "table3", "table4", "figure9"]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def whole(name: str):
    return open_listing(Path("paper") / name / "params.yaml", whole=True)


def small(name: str) -> dict:
    listing = whole(name)
    return miniature.grid_miniature(read_sections(listing.path), listing, miniature.names(listing))


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


# 2. Stand-ins


@pytest.mark.parametrize("name", GRIDS)
def test_stand_ins_are_bundled_tiny_and_distinct(name):
    listing = whole(name)
    stands = miniature.names(listing)
    for cell in miniature.chosen_cells(listing.cells):
        assert {stands[cell.dataset], stands[cell.probed_on]} <= {"digits", "fashion-mnist-8k"}
        assert stands[cell.backbone] == "random-vit" if cell.frozen else timm.is_model(stands[cell.backbone])
    trained = [stands[name] for name in {cell.backbone for cell in listing.cells if not cell.frozen} & set(stands)]
    assert len(set(trained)) == len(trained)


# 3. Settings


def test_published_rows_keep_their_numbers_under_new_names():
    listing = whole("table5")
    cells, stands = miniature.chosen_cells(listing.cells), miniature.names(listing)
    rows = miniature.published_miniature(published_rows(listing.path), cells, stands)
    assert len(rows) == len(cells)
    first = next(row for row in published_rows(listing.path) if row["backbone"] == "convnextv2_nano")
    assert rows[0] == {**first, "backbone": "test_convnext", "target": stands["flowers102"]}


def test_more_shots_than_digits_have_are_left_out():
    assert small("table3")["probe"]["few_shot"]["shots"] == [1, 2, 5, 10, 100]
    listing = whole("table3")
    cells, stands = miniature.chosen_cells(listing.cells), miniature.names(listing)
    rows = miniature.published_miniature(published_rows(listing.path), cells, stands)
    assert rows and not any("1000shot" in row["metric"] for row in rows)
