"""Claims about what a plan holds and prints:

1. It has every cell of the grid with what of it is on disk; weights that another grid makes are counted there, once;
   frozen models are fetched, not trained.
2. Images and sizes are those of the packed set, else of the file in the repository, else what its publisher says; those
   of a set that nobody knows are said to be unknown, and so is their cost.
3. What has to be fetched, by the pipeline and by hand, is named; disk counts DVC's cache.
4. Hundreds of cells take a line for each data set and backbone, no line is wider than 120 columns, nothing is written.
5. A pipeline is found by folder and by file; a broken path, file, backbone or batch size is named with its remedy, and
   the other pipelines are planned all the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import BY_HAND, fake_measurements, finish, pack, planned, settings, tasks_of, write

from pipeline.planning import costs, plan_text, planning, speed, timing
from pipeline.runtime.errors import UserError
from pipeline.settings.dvc_graph import cells_text
from pipeline.settings.grid import open_listing
from pipeline.settings.params import load_params
from stages import plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake_speed(monkeypatch):
    return fake_measurements(monkeypatch)


def printed(capsys, *pipelines: str, code: int = 0) -> str:
    assert plan.main(*pipelines) == code
    return capsys.readouterr().out


# 1. Cells


def test_cells_and_what_is_done():
    first, second, *_ = tasks_of()
    finish(first, "pretrain", "probe")
    finish(second, "pretrain")
    tasks = tasks_of()
    assert [task.cell.key for task in tasks] == [
        f"digits--test_vit--lambda{lamb}--seed{seed}" for lamb in (0.02, 0.1) for seed in (0, 1)
    ]
    done = [(task.pretrain_done, task.probe_done) for task in tasks]
    assert done == [(True, True), (True, False), (False, False), (False, False)]


def test_a_finished_grid_measures_nothing(monkeypatch, capsys):
    measuring = [(speed, "measure"), *((timing, f"{kind}_seconds") for kind in ("probe", "start", "decode"))]
    for module, name in measuring:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("measured"))
    for task in tasks_of():
        finish(task, "pretrain", "probe")
    out = printed(capsys)
    assert "4 cells, 4 done; 4 pretrainings, 4 done" in out and "left: none for cells; `dvc status` tells" in out


@pytest.fixture
def shared(fake_speed):
    """paper/two probes, fine-tuned and frozen, what paper/one trains, and a public model."""
    write({}, "paper/one/params.yaml")
    grid = {"models": ["public"], "axes": {"mode": {"sets": ["probe.mode"], "values": ["frozen", "finetune"]}}}
    write({"grid": grid, "shares": ["one"]}, "paper/two/params.yaml")
    for name in ("one", "two"):
        listing = open_listing(f"paper/{name}/params.yaml", whole=True)
        Path(f"paper/{name}/cells.yaml").write_text(cells_text(listing))
    return [planning.read_pipeline(Path(f"paper/{name}/params.yaml")) for name in ("one", "two")]


def test_weights_of_another_grid_are_counted_there(shared, capsys):
    one, two = shared
    assert [task.trains for task in one.tasks] == [True] * 4
    assert len(two.tasks) == 2 * 4 + 2 * 2 and not any(task.trains for task in two.tasks)
    assert {grid: len(tasks) for grid, tasks in plan_text.borrowed(two.tasks).items()} == {"one": 4}
    assert len(costs.sources(one.tasks + two.tasks)) == 4 + 1
    out = printed(capsys, "paper")
    assert "12 cells, 0 done; 0 pretrainings, 0 done; 4 more from one, 0 done" in out
    assert "pretraining  4 to do" in out and "mode frozen, finetune" in out


def test_frozen_models_are_fetched(shared, capsys):
    frozen = [task for task in shared[1].tasks if task.model]
    assert {task.owner for task in frozen} == {None} and {task.images_seen is None for task in frozen} == {False}
    assert "public (https://huggingface.co/timm/test_vit.r160_in1k)" in printed(capsys, "paper/two")
    Path("models/public").mkdir(parents=True)
    Path("models/public/backbone.safetensors").touch()
    out = printed(capsys, "paper/two")
    assert "downloads    none" in out
    (line,) = [line for line in out.splitlines() if " public " in line]
    assert "frozen  fetched" in line


def test_each_project_is_looked_at_in_its_own_folder(shared, capsys):
    """What paper/ has trained lies in paper/, also where the plan is of the root as well."""
    write({})
    Path("paper/.dvc").mkdir()
    for task in shared[0].tasks:
        finish(task, "pretrain", "probe")
    Path("runs").rename("paper/runs")
    out = printed(capsys, "params.yaml", "paper/one")
    assert "params.yaml: 4 cells, 0 done" in out and "paper/one/params.yaml: 4 cells, 4 done" in out


# 2. Images and sizes


def test_images_seen_leave_out_the_partial_batch():
    task = tasks_of()[0]
    assert task.train_set.num_train + task.train_set.num_test == 1797
    assert task.images_seen == 3 * (task.train_set.num_train // 64) * 64


def test_overrides_reach_the_plan():
    change = {"when": {"dataset": "digits"}, "pretrain": {"epochs": 5, "views": {"num_local": 0}}}
    task = tasks_of(overrides=[change])[0]
    assert task.images_seen == 5 * (task.train_set.num_train // 64) * 64
    assert speed.view_counts(task.pretrain.views.model_dump()) == {32: 2}


def test_facts_of_the_bundled_set_are_those_of_its_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    entry = load_params("params.yaml").datasets["fashion-mnist-8k"]
    facts = planning.set_facts(Path("nowhere/fashion-mnist-8k"), entry)
    assert (facts.num_train, facts.num_test, facts.num_classes, facts.is_packed) == (6000, 2000, 10, False)
    assert facts.canvas(256) == (1, 28, 28) and facts.canvas(20) == (1, 20, 20)


def test_facts_of_a_packed_set_come_from_its_meta():
    pack("cifar10", 1000, [30, 50])
    facts = tasks_of(grid={"datasets": ["cifar10"]})[0].train_set
    assert (facts.num_train, facts.num_test, facts.num_classes, facts.is_packed) == (1000, 100, 2, True)
    assert facts.canvas(256) == (3, 256, 256)
    assert facts.num_bytes == sum(file.stat().st_size for file in Path("data/cifar10").iterdir())
    assert len(facts.files) == 32 and facts.pack_s == 0


def test_the_catalogue_of_the_root_is_known_before_it_is_downloaded():
    entries = load_params(ROOT / "params.yaml").datasets
    facts = {
        name: planning.set_facts(Path("nowhere") / name, entry)
        for name, entry in entries.items()
        if entry.source != "bundled"
    }
    assert None not in facts.values()
    assert facts["cifar10"].canvas(256) == (3, 32, 32) and facts["dtd"].canvas(256) == (3, 256, 256)
    assert sum(facts["galaxy10"][:2]) == 17736


def test_a_set_that_nobody_knows_has_unknown_cost(fake_speed, capsys):
    tasks, measured = planned(grid={"datasets": ["digits", "mine"]})
    unknown = [task for task in tasks if task.cell.dataset == "mine"]
    assert [cost for task in unknown for cost in plan_text.costs(task, measured)] == [None] * 8
    assert {task.images_seen for task in unknown} == {None}
    out = printed(capsys)
    known = sum(task.images_seen for task in tasks if task.train_set)
    assert f"at least {known:,}" in out
    assert "+ 10 unknown on this machine" in " ".join(out.split())  # 4 pretrainings, 4 probes, packing, pictures
    assert "unknown until downloaded for mine" in " ".join(out.split())


# 3. What has to be fetched


def test_what_a_person_must_fetch():
    Path("data/by-hand/big").mkdir(parents=True)
    found = planning.read_pipeline(write({"grid": {"datasets": ["digits", "big", "mine"]}}))
    downloads, by_hand = plan_text.needs([found])
    assert downloads == ["mine (huggingface.co/datasets/mine/pictures)"]
    told = "\n".join(by_hand)
    for part in (*BY_HAND["what"].split(), BY_HAND["from"], BY_HAND["path"], "a.tar (missing)"):
        assert part in told
    Path("data/by-hand/big/a.tar").touch()
    assert "a.tar (there)" in "\n".join(plan_text.needs([found])[1])


def test_packed_sets_need_nothing():
    path = write({"grid": {"datasets": ["cifar10"]}})
    assert plan_text.needs([planning.read_pipeline(path)]) == (["cifar10 (torchvision.datasets.CIFAR10)"], [])
    pack("cifar10", 100, [30, 50])
    assert plan_text.needs([planning.read_pipeline(path)]) == ([], [])


def test_disk_counts_weights_twice_for_the_cache(fake_speed, capsys):
    tasks, measured = planned()
    num_params = measured.speeds[tasks[0].load].sketch.num_params
    out = " ".join(printed(capsys).split())
    assert f"weights {plan_text.size(4 * 2 * num_params * 4)}" in out
    (digits,) = planning.read_pipeline(Path("params.yaml")).facts.values()
    assert f"packed data about {plan_text.size(2 * digits.num_bytes)}" in out


# 4. The text


def test_the_printed_plan(fake_speed, capsys, folder):
    lambdas = [index / 1000 for index in range(1, 101)]
    write(
        {
            "grid": {"lambdas": lambdas, "backbones": ["test_vit", "test_convnext"]},
            "pretrain": {"views": {"num_local": 0}},
        }
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    out = printed(capsys, "params.yaml")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    lines = [line for line in out.splitlines() if line.startswith("  digits ")]
    assert len(lines) == 2 and len({len(line) for line in lines}) == 1  # aligned
    assert max(map(len, out.splitlines())) <= plan_text.WIDTH
    assert "params.yaml: 400 cells, 0 done; 400 pretrainings, 0 done" in out
    assert "downloads    none" in out and "by hand      nothing" in out


def test_a_pipeline_without_cells_takes_a_line(capsys, monkeypatch):
    Path("paper/figure3").mkdir(parents=True)
    Path("paper/figure3/params.yaml").write_text("anisotropy: {num_seeds: 3}\n")
    assert "no cells; runs in full in minutes on a CPU; its report is not there yet" in printed(capsys, "paper")
    Path("reports").mkdir()
    Path("reports/figure3.md").touch()
    assert "its report is there\n" in printed(capsys, "paper")


@pytest.mark.parametrize(
    ("seconds", "text"), [(41, "41 s"), (600, "10.0 min"), (7200, "2.0 h"), (864000, "10 days"), (1e8, "3.2 years")]
)
def test_durations(seconds, text):
    assert plan_text.duration(seconds) == text


# 5. Pipelines and mistakes


@pytest.mark.parametrize("argument", ["paper/one", "paper/one/dvc.yaml", "paper/one/params.yaml"])
def test_a_pipeline_is_found_by_folder_and_by_file(argument):
    write({}, "paper/one/params.yaml")
    Path("paper/one/dvc.yaml").touch()
    assert planning.params_files(argument) == [Path("paper/one/params.yaml")]


@pytest.mark.parametrize("argument", ["nowhere", "nowhere/dvc.yaml", "."])
def test_a_path_without_pipeline_is_named(argument):
    with pytest.raises(UserError, match="there is no pipeline at"):
        planning.params_files(argument)


def test_a_broken_pipeline_does_not_hide_the_others(fake_speed, capsys):
    write({"pretrain": {"epochs": -1}}, "paper/broken/params.yaml")
    write({}, "paper/new/params.yaml")
    write()
    out = printed(capsys, "params.yaml", "paper", code=1)
    assert "params.yaml: 4 cells" in out and "PROBLEM: paper/broken/params.yaml has" in out and "epochs" in out
    assert "run: python -m stages.expand paper/new" in out


def test_a_batch_larger_than_the_set_is_a_problem(fake_speed, capsys):
    write({"pretrain": {"batch_size": 2048}})
    out = printed(capsys, code=1)
    assert "PROBLEM: pretrain.batch_size must be <= the 1438 training images of digits" in out


def test_an_unknown_backbone_is_a_problem(fake_speed, capsys):
    write({"grid": {"backbones": ["test_vitt"]}})
    out = printed(capsys, code=1)
    assert "cannot run here" in out and out.count("PROBLEM: unknown backbone 'test_vitt'") == 1
    assert "did you mean 'test_vit'" in out


def test_a_backbone_that_refuses_its_views_is_a_problem(fake_speed, capsys):
    write({"grid": {"backbones": ["test_convnext"]}})
    assert "PROBLEM: backbone 'test_convnext' fails at 16 px (pretrain.views.local_px)" in printed(capsys, code=1)
    assert settings()["pretrain"]["views"]["local_px"] == 16
