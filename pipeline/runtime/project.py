"""Paths of the project: the clone, and the DVC project in it that a file belongs to.

The clone is one DVC project, paper/ in it another, so that nobody who runs his own grid pays for the two thousand
stages of the paper. A project has its own runs/, data/, models/ and reports/; programs work inside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.errors import UserError

REPORTS = Path("reports")
FOLDER_NAME = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*")


def repository() -> Path:
    """Return the clone: the nearest folder at or above the working directory with a pyproject.toml, else that one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def clone() -> Path:
    """Return the clone that the user sees, also to an experiment of DVC, which runs in a copy below its .dvc/tmp/exps.

    MLflow's store lies there, and relative paths of the user's own files begin there.
    """
    here = repository()
    copies = (folder for folder in here.parents if folder.parts[-3:] == (".dvc", "tmp", "exps"))
    return next((folder.parents[2] for folder in copies), here)


def tracked_grid(grid: str) -> str:
    """Return the name under which MLflow has the runs of a grid: in a copy, with the name of DVC's experiment after it.

    So they stand beside those of the workspace, which `dvc exp apply` and `python -m stages.sync` replace.
    """
    if repository() == clone() or "@" in grid:
        return grid
    return f"{grid}@{os.environ.get('DVC_EXP_NAME') or repository().name}"


def root_params() -> Path:
    """Return the parameter file of the clone, with the catalogues of all projects."""
    return repository() / "params.yaml"


def enter(arguments: Sequence[str]) -> list[str]:
    """Go to the DVC project that holds the files among a program's arguments, if it is one below the working directory.

    Returns:
        The arguments as they are to be read there; unchanged if the files are of no project, or of several.
    """
    here = Path.cwd()
    paths = {argument: Path(argument).resolve() for argument in arguments if Path(argument).exists()}
    homes = {_below(path, here) for path in paths.values()}
    if len(homes) != 1 or (home := homes.pop()) is None:
        return list(arguments)
    os.chdir(home)
    return [os.path.relpath(paths[argument], home) if argument in paths else argument for argument in arguments]


def _below(path: Path, here: Path) -> Path | None:
    """Return the project between a path and the folder `here` above it, that one left out."""
    if here not in path.parents:
        return None
    inner = (path, *path.parents[: path.parents.index(here)])
    return next((folder for folder in inner if (folder / ".dvc").is_dir()), None)


def shown(path: str | Path) -> str:
    """Return a path as a command takes it that is typed in the clone's top folder."""
    return os.path.relpath(Path(path).resolve(), repository())


def repro_command(params_path: str | Path) -> str:
    """Return the command that runs the pipeline of a parameter file, as it is typed in the clone's top folder."""
    root, folder = repository(), Path(params_path).resolve().parent
    if folder == root:
        return "dvc repro"
    if root not in folder.parents or (home := _below(folder, root)) is None:
        return f"dvc repro {os.path.relpath(folder / 'dvc.yaml', root)}"
    return f"dvc --cd {home.relative_to(root)} repro {(folder / 'dvc.yaml').relative_to(home)}"


def remake(out: str | Path) -> str:
    """Return the command that makes data/<name>, data/foreign/<name> or models/<name> of the present project anew."""
    name, kind = Path(out).name, Path(out).parent.name
    project = os.path.relpath(Path.cwd(), repository())
    pipeline = "" if project == "." and kind != "models" else f"{kind}/dvc.yaml:"
    target = "foreign" if kind == "foreign" else f"{pipeline}{'model' if kind == 'models' else 'download'}@{name}"
    return f"dvc repro --force {target}" if project == "." else f"dvc --cd {project} repro --force {target}"


def stage_key() -> str:
    """Return what stands after the @ in the name of the DVC stage that runs this program; "" outside DVC."""
    return os.environ.get("DVC_STAGE", "").partition("@")[2]


def grid_name(path: str | Path) -> str:
    """Return the name of a parameter file's grid.

    `default` at the root, else the folder's (paper/table5 -> table5, miniature/table5 -> miniature-table5).

    Raises:
        UserError: if the folder's name would not be the same word in a shell, a path and a stage of DVC.
    """
    folder = Path(path).resolve().parent
    if folder == Path.cwd():
        return "default"
    if not FOLDER_NAME.fullmatch(folder.name):
        rule = (
            f"the folder's name is the grid's and must be letters, digits, '_' and '-', got {folder.name!r}; rename it"
        )
        raise UserError(f"{path}: {rule}")
    return f"miniature-{folder.name}" if folder.parent.name == "miniature" else folder.name


def reports_folder(grid: str) -> Path:
    """Where a grid's comparison lies, relative to its DVC project."""
    return REPORTS if grid == "default" else REPORTS / grid
