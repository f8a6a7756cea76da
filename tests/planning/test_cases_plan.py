"""`python -m stages.plan` for data and machines that are not ours (cases A5 and C8). Claims:

1. A user's own folder, alone in the grid, has a cost of every stage that the graph runs for it; nothing is written.
2. JEPA-SCORE of a large network costs minutes, up to the bound that is set; of a set that is not asked for nothing.
3. A set that cannot be packed is a problem before anything runs, by its path and remedy.
4. The device is named, and a GPU that torch cannot use.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from plan_files import fake_measurements, write

from benchmarks import photographs
from pipeline.core.distributed import devices
from pipeline.planning import costs
from pipeline.planning.inventory import read_pipeline
from pipeline.planning.step_time import measure
from stages import plan

pytestmark = pytest.mark.seconds

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_measurements(monkeypatch)
    return tmp_path


def own(count: int, **change) -> Path:
    """Write so many photographs, and params.yaml with them alone in the grid."""
    photographs.main("photos", str(count))
    entry = {"source": "folder", "path": "photos"}
    grid = {"datasets": ["photos"], "lambdas": [0.05], "seeds": [0]}
    return write({"grid": grid, "datasets": {"photos": entry}, "pretrain": {"batch_size": 8}, **change})


def stages_of(printed: str) -> dict[str, tuple[int, str]]:
    """Return {stage: (runs, time left)} of what was printed."""
    table = printed.partition("All together")[2].partition("\ncells ")[0]
    return {name: (int(runs), left) for name, runs, left in re.findall(r"^  (\w+) +(\d+)  +(.+)$", table, re.MULTILINE)}


# 1. Every stage


def test_every_stage_of_the_graph_has_a_cost(folder, capsys):
    """A5: a folder of photographs, alone in the grid, with foreign sets to score."""
    own(40, density={"sets": ["digits"]})
    before = sorted(folder.rglob("*"))
    assert plan.main() == 0
    assert sorted(folder.rglob("*")) == before
    found = stages_of(capsys.readouterr().out)
    assert {name: runs for name, (runs, _) in found.items()} == {
        "pack": 2, "pretrain": 1, "probe": 1, "score": 2, "pictures": 1,
        "compare": 1, "diagnose": 1, "density": 1, "known_density": 1, "page": 1,
    }  # fmt: skip
    assert all(re.fullmatch(r"[1-9][\d.]* (s|min|h)", left) for _, left in found.values()), found
    names = {"download": "pack", "foreign": "pack", "score_foreign": "score"}
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {names.get(name, name) for name in graph} - {"configure"} == set(found)


# 2. JEPA-SCORE


def test_a_large_network_is_scored_for_minutes_and_a_bound_holds(capsys):
    """A5"""
    big = {"backbones": ["resnet10t"], "datasets": ["digits"], "lambdas": [0.05], "seeds": [0]}
    views = {"views": {"num_local": 0, "global_px": 64}}
    seconds = {}
    for tflop in (1000, 1):
        found = read_pipeline(
            write({"grid": big, "pretrain": views, "density": {"sets": ["photos"], "max_tflop": tflop},
                   "datasets": {"photos": {"source": "sklearn", "dataset": "sample_images", "patch_px": 32}}})
        )  # fmt: skip
        measured = measure([found])
        seconds[tflop] = costs.scoring_seconds(found, "digits", "photos", measured)
    forward_s = next(iter(measured.speeds.values())).operations[64] * 2e-9 / 3
    exact_s = found.facts["photos"].num_test * 2 * 512 * forward_s
    assert 1.2 * exact_s > seconds[1000] > exact_s > 3600
    assert 60 < seconds[1] < 1000  # the sketch, and the embeddings of the training images
    write({"grid": big, "pretrain": views})
    assert plan.main() == 0
    assert "score" not in stages_of(capsys.readouterr().out)


# 3. Sets that cannot be packed


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda: Path("photos").rename("elsewhere"), r"PROBLEM: datasets\.photos.*nothing at .*photos"),
        (lambda: next(Path("photos/class 3").iterdir()).write_bytes(b"\xff\xd8 torn"), "PROBLEM: datasets.photos"),
        (
            lambda: [p.rename(Path("photos") / p.name) for p in Path("photos").rglob("*.jpg")],
            "PROBLEM: datasets.photos",
        ),
    ],
    ids=["absent", "a torn picture", "no classes"],
)
def test_a_set_that_cannot_be_packed_is_a_problem(capsys, damage, told):
    own(20)
    damage()
    assert plan.main() == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(told, printed)
    assert stages_of(printed) == {} and "unknown" in printed


# 4. Devices


def test_the_device_is_named(capsys):
    """C8"""
    own(20, pretrain={"batch_size": 8, "device": "cpu"})
    assert plan.main() == 0
    assert re.search(r"^device cpu \(.+\), float32, \d+ threads$", capsys.readouterr().out, re.MULTILINE)


def test_a_gpu_that_torch_cannot_use_is_named_once(capsys, monkeypatch):
    """C8"""
    monkeypatch.setattr(devices, "_cuda_trouble", lambda: "the driver is too old")
    monkeypatch.setattr(devices, "_nvidia_gpu", lambda: "GPU 0: Some GPU")
    own(20)
    assert plan.main() == 0
    assert capsys.readouterr().err.count("Some GPU") == 1
