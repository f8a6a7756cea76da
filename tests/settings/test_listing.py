"""Claims about pipelines with a cells.yaml:

1. Any setting is an axis: its values reach the settings of their cells alone.
2. Cells with the same pretraining share it across pipelines; other loader settings do not part them.
3. A line removed from cells.yaml is a cell that is not run.
4. based_on gives what a file is silent about, a rule for backbones is read from its list, and circles are named.
5. A stale or missing cells.yaml says what to run.

Targets, frozen models and published combinations: the pipelines under paper/, tests/graph/test_paper_pipelines.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.catalogue.validation import ParamsError
from pipeline.settings.cells import merge
from pipeline.settings.dvc_graph import cells_text
from pipeline.settings.grid import open_listing
from pipeline.settings.params import load_params

CATALOGUES = {
    "datasets": {"digits": {"source": "sklearn"}, "dtd": {"source": "bundled"}},
    "models": {"dino": {"backbone": "test_vit"}},
}
GRID = {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.05], "seeds": [0]}
PRETRAIN = {"epochs": 20, "batch_size": 64}
T_MAX = {"t_max": {"sets": ["pretrain.sigreg.t_max"], "values": [1, 3]}}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A repository root with catalogues."""
    monkeypatch.chdir(tmp_path)
    write("params.yaml", {"grid": GRID, "pretrain": PRETRAIN, **CATALOGUES})


def write(path: str, content: dict) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Path(path)


def pipeline(name: str = "one", listed: bool = True, **sections) -> Path:
    path = write(f"paper/{name}/params.yaml", merge({"grid": GRID, "pretrain": PRETRAIN}, sections))
    if listed:
        path.with_name("cells.yaml").write_text(cells_text(open_listing(path, whole=True)), encoding="utf-8")
    return path


def problems(path: Path, **options) -> str:
    with pytest.raises(ParamsError) as caught:
        open_listing(path, **options)
    return str(caught.value)


# 1. Axes


def test_an_axis_sets_its_path_in_its_cells():
    listing = open_listing(pipeline(grid={"axes": T_MAX}))
    assert [cell.key for cell in listing.cells] == [
        "digits--test_vit--lambda0.05--seed0--t_max1",
        "digits--test_vit--lambda0.05--seed0--t_max3",
    ]
    assert [listing.settings(cell).pretrain.sigreg.t_max for cell in listing.cells] == [1, 3]
    assert [cell.axes["t_max"] for cell in listing.cells] == [1, 3]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"t": {"sets": ["pretrain.sigreg.t_mx"], "values": [1]}}, "unknown key pretrain.sigreg.t_mx"),
        ({"T": {"values": [1]}}, "grid.axes"),
    ],
)
def test_a_broken_axis_is_named(axes, message):
    assert message in problems(pipeline(listed=False, grid={"axes": axes}), whole=True)


# 2. Sharing


def test_pipelines_share_what_is_equal_to_the_last_setting():
    pipeline("one", grid={"seeds": [0, 1]})
    same = open_listing(pipeline("two", shares=["one"], pretrain={"loader": {"num_workers": 7}}))
    assert [owner.grid for owner in same.owners.values()] == ["one"] and same.trained == []
    other = open_listing(pipeline("three", shares=["one"], pretrain={"batch_size": 65}))
    assert [owner.grid for owner in other.owners.values()] == ["three"]


# 3. Listed cells


def test_a_removed_line_is_a_cell_that_is_not_run():
    path = pipeline(grid={"axes": T_MAX})
    listing = path.with_name("cells.yaml")
    kept = [line for line in listing.read_text().splitlines() if "t_max1" not in line]
    listing.write_text("\n".join(kept) + "\n")
    assert [cell.key[-6:] for cell in open_listing(path).cells] == ["t_max3"]
    assert len(open_listing(path, whole=True).cells) == 2


# 4. Parameter files


def test_based_on_fills_in_and_this_file_wins():
    pipeline("one", pretrain={"batch_size": 128, "sigreg": {"num_slices": 7}}, probe={"knn": {"k": 3}})
    path = write("paper/two/params.yaml", {"based_on": "one", "grid": GRID, "pretrain": {"sigreg": {"num_knots": 5}}})
    params = load_params(path)
    assert (params.pretrain.batch_size, params.pretrain.sigreg.num_slices) == (128, 7)
    assert (params.pretrain.sigreg.num_knots, params.probe.knn.k) == (5, 3)
    write("paper/one/params.yaml", {"based_on": "two", "grid": GRID})
    with pytest.raises(ParamsError, match="based_on goes in a circle"):
        load_params(path)


def test_a_rule_for_backbones_is_read_from_its_list():
    rule = {"families": ["resnet"], "max_params": 1.0e6}
    path = write("paper/one/params.yaml", {"grid": {**GRID, "backbones": rule}, "pretrain": PRETRAIN})
    assert "run: python -m stages.expand paper/one" in problems(path, whole=True)
    path.with_name("backbones.txt").write_text("# two\ntest_resnet # resnet, 1\n\ntest_vit\n", encoding="utf-8")
    assert load_params(path).grid.backbones == ["test_resnet", "test_vit"]


# 5. What does not fit


def test_a_missing_or_stale_listing_says_what_to_run():
    path = pipeline(listed=False)
    assert "there is no paper/one/cells.yaml beside it; run: python -m stages.expand paper/one" in problems(path)
    pipeline(grid={"axes": T_MAX})
    pipeline(listed=False)
    assert "2 entries of probe" in problems(path) and "run: python -m stages.expand paper/one" in problems(path)


def test_a_copy_under_another_name_is_told_where_it_may_lie():
    copy = pipeline(listed=False).rename("paper/one/p.yaml")
    said = problems(copy)
    assert (
        "is called params.yaml; a copy for trying belongs into the clone's top folder" in said and "expand" not in said
    )
