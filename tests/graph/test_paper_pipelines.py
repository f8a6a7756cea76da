"""Claims about the pipelines under paper/:

1. cells.yaml and dvc.yaml of each are what `python -m stages.expand` writes now.
2. The cells are those of the published table: every row that can be run has its cells, every cell its row.
3. Every value in a params.yaml has a comment that says where it comes from, or why it was chosen.
4. A miniature of each runs through the real `dvc repro`, fills every published row it kept, agrees with MLflow, runs
   once only.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from csv_tables import csv_rows
from workspace import ROOT, Workspace

from pipeline.reports.paper_settings import told_settings
from pipeline.settings.dvc_graph import cells_text, graph_text
from pipeline.settings.grid import is_about, open_listing, published_rows

PIPELINES = sorted(path.parent.name for path in (ROOT / "paper").glob("*/params.yaml"))
GRIDS = [name for name in PIPELINES if "grid" in yaml.safe_load((ROOT / "paper" / name / "params.yaml").read_text())]
CORE = "table4", "figure6"  # one of each kind, with and without cells
SMALL = [name for name in PIPELINES if re.fullmatch(r"(table|figure|imagenet)\w*(?<!_laptop)", name)]  # the paper's own
# No weights of this model are public, so its published rows stay "not run".
WITHOUT_WEIGHTS = {"ijepa-vit-h14-stop"}
# Cells x seeds, counted by hand in the published tables.
NUM_CELLS = {
    "table1a": 18, "table1b": 11, "table1c": 4, "table1d": 20, "table1e": 10, "imagenet1k": 3, "table2": 32,
    "table3": 36, "table4": 36, "table5": 36, "table7": 26,
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(ROOT / "paper")


def listing_of(name: str):
    return open_listing(Path(name) / "params.yaml")


def test_every_experiment_of_the_paper_has_a_pipeline():
    wanted = {f"table1{part}" for part in "abcde"} | {f"table{n}" for n in range(2, 8)}
    wanted |= {"figure3", "figure6", "figure7", "figure9", "figure13", "figure20"}
    assert wanted <= set(PIPELINES)


# 1. Written files


@pytest.mark.parametrize("name", GRIDS)
def test_cells_and_graph_are_up_to_date(name):
    # Of a pipeline of the laptop cells.yaml may keep some of the cells alone.
    listing = open_listing(Path(name) / "params.yaml", whole=name in SMALL)
    assert (listing.path.with_name("cells.yaml")).read_text() == cells_text(listing), "python -m stages.expand"
    assert (listing.path.with_name("dvc.yaml")).read_text() == graph_text(listing), "python -m stages.expand"


# 2. Cells


@pytest.mark.parametrize("name", sorted(set(GRIDS) & set(NUM_CELLS)))
def test_cells_are_those_of_the_published_table(name):
    listing, rows = listing_of(name), published_rows(Path(name) / "params.yaml")
    assert len(listing.cells) == NUM_CELLS[name]
    without = [row for row in rows if not any(is_about(row, cell) for cell in listing.cells)]
    assert {row["backbone"] for row in without} <= WITHOUT_WEIGHTS
    assert [cell.key for cell in listing.cells if not any(is_about(row, cell) for row in rows)] == []


# 3. Sources


@pytest.mark.parametrize("name", sorted(set(GRIDS) & set(SMALL)))
def test_every_value_has_its_source(name):
    settings = [one for one in told_settings(Path(name) / "params.yaml") if one.pipeline == name]
    assert [one.key for one in settings if one.key.startswith(("grid.", "pretrain.")) and not one.comment] == []


# 4. Miniatures


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a clone with every miniature."""
    made = Workspace(tmp_path_factory.mktemp("paper"), paper=True)
    made.run("python", "-m", "stages.miniature", *(f"paper/{name}" for name in SMALL))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.core) if name in CORE else name for name in SMALL]
)
def test_miniature(workspace, name):
    ran = workspace.repro(f"{name}/dvc.yaml", project="miniature")
    assert any(stage.startswith(f"{name}/dvc.yaml:") for stage in ran)
    claims = csv_rows(workspace.root / f"miniature/reports/claims/{name}.csv")
    assert claims and {claim["verdict"] for claim in claims} <= {"reproduced", "differs"}, claims
    if name in GRIDS:
        assert "0 disagreements" in workspace.run("python", "-m", "stages.verify", f"miniature/{name}/params.yaml")
    assert workspace.repro(f"{name}/dvc.yaml", project="miniature") == []
