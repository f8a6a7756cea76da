"""Claims: imports point one way and are acyclic; heavy libraries stay in their one module; every DVC stage depends on
exactly the files that its program imports."""

from __future__ import annotations

from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from scmrepo.git import Git

from pipeline.graph import import_closure, imports, local_imports

ROOT = Path(__file__).parents[1]
OWNERS = {
    "timm": {"backbones"},
    "mlflow": {"tracking"},
    "pandas": {"tables"},
    "matplotlib": {"figures*", "plots_descent"},
    "ray": {"on_ray"},
    "submitit": {"on_slurm"},
    "pydantic": {"catalogue", "params", "schema*", "validation"},
}


LIBRARY = sorted(p for p in (ROOT / "pipeline").rglob("*.py") if p.stem != "__init__")


def test_imports_are_acyclic():
    graph = {path: local_imports(path, ROOT) for path in [*LIBRARY, *(ROOT / "stages").glob("*.py")]}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(LIBRARY)


def test_dvc_finds_every_pipeline():
    """It walks into no folder that its git library takes for ignored: a rule like /paper/data/*/ hides paper/data/."""
    scm = Git(ROOT)
    folders = [path.parent for path in ROOT.glob("paper/*/dvc.yaml")]
    assert len(folders) > 20
    assert [folder for folder in folders if scm.is_ignored(f"{folder}/")] == []


def test_library_never_imports_stages():
    offenders = [path.name for path in LIBRARY if any(name.split(".")[0] == "stages" for name in imports(path))]
    assert offenders == []


def test_stages_do_not_import_each_other():
    stages = set((ROOT / "stages").glob("*.py")) - {ROOT / "stages/__init__.py"}
    assert {
        path.name: local_imports(path, ROOT) & stages for path in stages if local_imports(path, ROOT) & stages
    } == {}


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_home(library):
    users = {path.stem for path in LIBRARY if any(name.split(".")[0] == library for name in imports(path))}
    strangers = {user for user in users if not any(fnmatch(user, owner) for owner in OWNERS[library])}
    assert users and strangers == set()


def test_losses_need_torch_alone():
    top = {name.split(".")[0] for path in import_closure(ROOT / "pipeline/losses.py", ROOT) for name in imports(path)}
    assert top - {"torch", "pipeline", "triton"} <= set(__import__("sys").stdlib_module_names)


def test_library_reads_neither_argv_nor_params():
    for path in LIBRARY:
        text = path.read_text(encoding="utf-8")
        assert "sys.argv" not in text and "argparse" not in text, path.name


def stages_of(dvc_yaml: Path):
    for name, stage in yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"].items():
        stage = stage.get("do", stage)
        program = stage["cmd"].split(" -m ")[1].split()[0].replace(".", "/") + ".py"
        deps = {dep.removeprefix("../") for dep in stage.get("deps", []) if str(dep).endswith(".py")}
        yield f"{dvc_yaml.relative_to(ROOT)}:{name}", program, deps


GRAPHS = [ROOT / "dvc.yaml", *sorted(ROOT.glob("paper/*/dvc.yaml"))]
STAGES = [entry for path in GRAPHS for entry in stages_of(path)]


def wanted_deps(name: str, program: str) -> set[str]:
    """Cells of the paper's grids know their code by checksums, which configure writes and so depends on for them."""
    programs = [program]
    if "cells.yaml" in (ROOT / name.partition(":")[0]).read_text(encoding="utf-8"):
        by_checksum = ["stages/pretrain.py", "stages/probe.py"]
        programs = [] if program in by_checksum else [program, *by_checksum * (program == "stages/configure.py")]
    return {str(path.relative_to(ROOT)) for one in programs for path in import_closure(ROOT / one, ROOT)}


@pytest.mark.parametrize(("name", "program", "deps"), STAGES, ids=[entry[0] for entry in STAGES])
def test_deps_are_the_import_closure(name, program, deps):
    wanted = wanted_deps(name, program)
    assert deps == wanted, f"{name}: add {sorted(wanted - deps)}, remove {sorted(deps - wanted)}"


def test_cells_of_the_paper_depend_on_the_checksums_of_their_code():
    for path in sorted(ROOT.glob("paper/*/cells.yaml")):
        stages = yaml.safe_load(path.with_name("dvc.yaml").read_text(encoding="utf-8"))["stages"]
        for name in ("pretrain", "probe"):
            assert f"runs/{path.parent.name}/configs/code-{name}.txt" in stages[name]["do"]["deps"]


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_stage_programs_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 75
