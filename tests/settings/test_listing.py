"""Claims about pipelines with a cells.yaml:

1. Any setting is an axis: its values reach the settings of their cells alone.
2. Targets are probed with weights trained elsewhere; frozen models are probed only, without lambda and training axes.
3. Cells with the same pretraining share it, within a pipeline and across; other loader settings do not part them.
4. Only published combinations are kept if asked for; a line removed from cells.yaml is a cell that is not run.
5. based_on gives what a file is silent about, a rule for backbones is read from its list, and circles are named.
6. A stale or missing cells.yaml says what to run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.catalogue.validation import ParamsError
from pipeline.settings.cells import merge
from pipeline.settings.dvc_graph import cells_text
from pipeline.settings.grid import open_listing, possible_cells
from pipeline.settings.params import load_params

CATALOGUES = {
    "datasets": {"digits": {"source": "sklearn"}, "dtd": {"source": "bundled"}},
    "models": {"dino": {"backbone": "test_vit"}},
}
GRID = {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.05], "seeds": [0]}
PRETRAIN = {"epochs": 20, "batch_size": 64}
T_MAX = {"t_max": {"sets": ["pretrain.sigreg.t_max"], "values": [1, 3]}}
MODE = {"mode": {"sets": ["probe.mode"], "values": ["frozen", "finetune"]}}


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


# 2. Targets and frozen models


def test_targets_share_one_training_and_models_have_none():
    listing = open_listing(pipeline(grid={"targets": ["dtd", "digits"], "models": ["dino"], "axes": {**T_MAX, **MODE}}))
    keys = [cell.key for cell in listing.cells]
    assert "digits--test_vit--lambda0.05--seed0--t_max1--modefrozen--on-dtd" in keys
    assert "digits--test_vit--lambda0.05--seed0--t_max1--modefrozen" in keys  # probed where it was trained
    assert [key for key in keys if "dino" in key] == [
        f"{name}--dino--seed0--mode{mode}" for name in ("dtd", "digits") for mode in ("frozen", "finetune")
    ]
    assert len(listing.cells) == 2 * 2 * 2 + 4
    assert len(listing.trained) == 2  # one for each t_max
    frozen = next(cell for cell in listing.cells if cell.frozen)
    assert (frozen.probed_on, listing.weights(frozen)) == ("dtd", "models/dino/backbone.safetensors")


# 3. Sharing


def test_pipelines_share_what_is_equal_to_the_last_setting():
    pipeline("one", grid={"seeds": [0, 1]})
    same = open_listing(pipeline("two", shares=["one"], pretrain={"loader": {"num_workers": 7}}))
    assert [owner.grid for owner in same.owners.values()] == ["one"] and same.trained == []
    other = open_listing(pipeline("three", shares=["one"], pretrain={"batch_size": 65}))
    assert [owner.grid for owner in other.owners.values()] == ["three"]


# 4. Published and listed cells


def published(path: Path, text: str) -> Path:
    path.with_name("published.csv").write_text(text, encoding="utf-8")
    return path


def test_only_published_combinations_are_kept():
    path = pipeline(listed=False, grid={"lambdas": [0.05, 0.10, 0.2], "axes": T_MAX, "only_published": True})
    published(path, "t_max,lambda,label,top1\n1,0.1,x,70\n3.0,0.050,y,71\n7,0.1,z,72\n")
    cells = possible_cells(path, load_params(path), "one")
    assert [(cell.lamb, dict(cell.choices)["t_max"]) for cell in cells] == [(0.05, 3), (0.1, 1)]


def test_a_removed_line_is_a_cell_that_is_not_run():
    path = pipeline(grid={"axes": T_MAX})
    listing = path.with_name("cells.yaml")
    kept = [line for line in listing.read_text().splitlines() if "t_max1" not in line]
    listing.write_text("\n".join(kept) + "\n")
    assert [cell.key[-6:] for cell in open_listing(path).cells] == ["t_max3"]
    assert len(open_listing(path, whole=True).cells) == 2


# 5. Parameter files


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


# 6. What does not fit


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
