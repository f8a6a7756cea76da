"""Claims: imports point one way and are acyclic; heavy libraries stay in their one room and are loaded late; every DVC
stage depends on exactly the rooms that its program imports, but for those that change no result."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from scmrepo.git import Git

from pipeline.runtime.rooms import import_closure, imports, imports_of, local_imports, rooms

ROOT = Path(__file__).parents[2]
OWNERS = {
    "timm": {"models"},
    "mlflow": {"tracking"},
    "pandas": {"reports", "experiments", "zoo", "publish"},
    "matplotlib": {"reports", "experiments"},
    "jinja2": {"reports"},
    "markdown_it": {"reports"},
    "ray": {"launch"},
    "submitit": {"launch"},
    "pydantic": {"catalogue", "schema", "settings", "experiments"},
}
# Rooms from the ground up: each imports those before it alone.
ORDER = [
    *("runtime", "catalogue", "schema", "core", "losses", "data", "models", "training", "probing", "trials"),
    *("settings", "sources", "zoo", "tracking", "selection", "density", "pictures", "reports"),
    *("publish", "experiments", "launch", "planning"),
]
LIBRARY = sorted(p for p in (ROOT / "pipeline").rglob("*.py") if p.stem != "__init__")


def room(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").parts[0]


def test_rooms_import_downwards():
    upwards = {
        (str(path.relative_to(ROOT)), str(imported.relative_to(ROOT)))
        for path in LIBRARY
        for imported in local_imports(path, ROOT)
        if imported.stem != "__init__" and ORDER.index(room(imported)) > ORDER.index(room(path))
    }
    assert upwards == set()


def test_imports_are_acyclic():
    graph = {path: local_imports(path, ROOT) for path in [*LIBRARY, *(ROOT / "stages").glob("*.py")]}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(LIBRARY)


def test_dvc_finds_every_pipeline():
    """It walks into no folder that its git library takes for ignored: a rule like /paper/data/*/ hides paper/data/."""
    scm = Git(ROOT)
    folders = [path.parent for path in ROOT.glob("paper/*/dvc.yaml")]
    assert len(folders) > 20
    assert [folder for folder in folders if scm.is_ignored(f"{folder}/")] == []


def test_stages_do_not_import_each_other():
    stages = set((ROOT / "stages").glob("*.py")) - {ROOT / "stages/__init__.py"}
    assert {
        path.name: local_imports(path, ROOT) & stages for path in stages if local_imports(path, ROOT) & stages
    } == {}


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_home(library):
    users = {room(path) for path in LIBRARY if any(name.split(".")[0] == library for name in imports(path))}
    assert users and users <= OWNERS[library]


def loaded(path: Path) -> set[str]:
    """Libraries that are loaded when a file is imported; what its functions import comes later."""
    found, files, todo = set(), set(), [path]
    while todo:
        files.add(file := todo.pop())
        body = ast.parse(file.read_text(encoding="utf-8")).body
        code = "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom))
        found |= {name.split(".")[0] for name in imports_of(code)}
        places = [ROOT.joinpath(*name.split(".")) for name in imports_of(code)]
        paths = {path for place in places for path in (place.with_suffix(".py"), place / "__init__.py")}
        todo += [path for path in paths - files if path.exists()]
    return found


@pytest.mark.parametrize(
    ("program", "late"),
    [
        *((name, {"timm", "mlflow", "pandas"}) for name in ("configure", "pretrain", "probe")),
        *((name, {"torch", "timm", "mlflow", "pandas"}) for name in ("check", "sync", "verify", "ui", "download")),
        ("compare", {"torch", "timm", "mlflow"}),
    ],
)
def test_a_stage_speaks_before_it_loads_what_takes_seconds(program, late):
    assert loaded(ROOT / f"stages/{program}.py") & late == set()


def test_losses_need_torch_alone():
    top = {
        name.split(".")[0]
        for path in import_closure(ROOT / "pipeline/losses/lejepa.py", ROOT)
        for name in imports(path)
    }
    assert top - {"torch", "pipeline", "triton"} <= set(__import__("sys").stdlib_module_names)


def test_library_reads_neither_argv_nor_params():
    for path in LIBRARY:
        text = path.read_text(encoding="utf-8")
        assert "sys.argv" not in text and "argparse" not in text, path.name


def stages_of(dvc_yaml: Path):
    for name, stage in yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"].items():
        stage = stage.get("do", stage)
        program = stage["cmd"].split(" -m stages.")[1].split()[0]
        deps = {str(dep).removeprefix("../") for dep in stage.get("deps", [])}
        yield f"{dvc_yaml.relative_to(ROOT)}:{name}", program, {dep for dep in deps if CODE.match(dep)}


CODE = re.compile(r"(pipeline|stages)/")
GRAPHS = [ROOT / "dvc.yaml", *sorted(ROOT.glob("paper/*/dvc.yaml"))]
STAGES = [entry for path in GRAPHS for entry in stages_of(path)]


@pytest.mark.parametrize(("name", "program", "deps"), STAGES, ids=[entry[0] for entry in STAGES])
def test_deps_are_the_rooms_of_the_import_closure(name, program, deps):
    wanted = set(map(str, rooms(program)))
    assert deps == wanted, f"{name}: add {sorted(wanted - deps)}, remove {sorted(deps - wanted)}"


@pytest.mark.seconds
def test_stages_leave_no_bytecode_in_what_a_stage_depends_on(tmp_path):
    """.dvcignore does not reach out of paper/, whose stages depend on ../pipeline/<room> and ../objectives."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "pyproject.toml", "data/bundled"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([sys.executable, "-m", "stages.check"], cwd=tmp_path, env=kept, check=True)
    found = {path.relative_to(tmp_path).parts[0:2] for path in tmp_path.rglob("__pycache__")}
    assert found <= {("pipeline", "__pycache__"), ("pipeline", "runtime"), ("stages", "__pycache__")}


def test_settings_are_worked_out_again_when_a_users_objective_changes():
    graphs = {path: yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] for path in GRAPHS}
    deps = {path: stages["configure"]["deps"] for path, stages in graphs.items() if "configure" in stages}
    assert len(deps) > 10
    assert [path for path, found in deps.items() if not {"objectives", "../objectives"} & set(found)] == []


def test_science_does_not_see_how_it_is_run_and_reported():
    outside = {"runtime", "tracking", "settings", "schema", "catalogue"}
    outside |= {"reports", "launch", "planning", "selection", "zoo"}
    for program in ("pretrain", "probe", "score"):
        assert not outside & {place.name for place in rooms(program)}
    assert {place.name for place in rooms("pretrain")} >= {"losses", "data", "models", "training", "pretrain.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_stage_programs_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
