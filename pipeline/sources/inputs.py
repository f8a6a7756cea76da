"""A user's own files as dependencies of DVC: data/inputs/<name> and models/inputs/<name> lead to what an entry reads.

DVC follows the link and looks at sizes and times, so that a changed folder or file is packed anew. Measured with 30,000
files: 12 s once and after a change, 1 s at every later command (reports/LOG.md, 2026-11-30).
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.catalogue.datasets import Dataset
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.project import clone, repository

INPUTS = Path("data/inputs")
MODELS = Path("models/inputs")
NOTHING = "no local input\n"


def local_inputs(name: str, entry: Dataset) -> list[Path]:
    """Return the files or folders of this machine that an entry reads; [] if it is downloaded or part of a package.

    Args:
        name: of the data set.
        entry: its catalogue entry; paths are absolute, begin with ~, or are relative to the clone.

    Raises:
        UserError: something that the entry names is not there.
    """
    match entry.source:
        case "bundled":
            file = repository() / "data/bundled" / f"{name}.npz"
            if not file.exists():
                raise UserError(
                    f"datasets.{name}: there is no {file}; put it there, or take source: arrays with a path"
                )
            return [file]
        case "torchvision" if entry.by_hand:
            files = [user_path(entry.by_hand.path) / file for file in entry.by_hand.files]
            return [file for file in files if file.exists()]  # the stage download names the others
        case "folder" | "arrays" if entry.path:
            path = user_path(entry.path)
            if not path.exists():
                raise UserError(f"datasets.{name}.path: there is nothing at {path}; correct it in params.yaml")
            return [path]
        case "huggingface" if entry.path:
            return _matched(name, entry)
    return []


def absent_inputs(sets: Mapping[str, Dataset]) -> list[str]:
    """Return a line for each set of which something that it reads on this machine is not there."""
    problems = []
    for name, entry in sets.items():
        try:
            local_inputs(name, entry)
        except UserError as error:
            problems.append(str(error))
    return problems


def user_path(path: str) -> Path:
    """Return where a path of an entry leads: it is absolute, begins with ~, or is relative to the clone."""
    return clone() / Path(path).expanduser()


def matched_files(pattern: str, split: str) -> list[Path]:
    """Return the files that match the `path` of local parquet files, in which {split} stands for the split's name."""
    wanted = os.path.expanduser(pattern.replace("{split}", split))
    return [clone() / path for path in sorted(glob.glob(wanted, root_dir=clone(), recursive=True))]


def _matched(name: str, entry: Dataset) -> list[Path]:
    """Return the folder above a pattern, which may gain files; the files alone where the clone lies in that folder."""
    pattern = user_path(entry.path)
    fixed = user_path(re.split(r"[{*?\[]", entry.path)[0] + "x").parent
    splits = [split for split in (entry.splits.train, entry.splits.test) if split]
    files = sorted({file for split in splits for file in matched_files(entry.path, split)})
    if not files:
        raise UserError(f"datasets.{name}.path: no file matches {pattern}; correct it in params.yaml")
    return [fixed] if fixed not in (clone(), *clone().parents) else files


def link_foreign(sets: Mapping[str, Dataset]) -> dict[str, list[Path]]:
    """Make data/inputs/foreign anew, for sets beside the grid; one that is not there costs an analysis and no more.

    DVC sees changes of a file there. It follows no link to a folder inside a folder: a set whose folder changes belongs
    into the grid, or is packed again by `dvc repro --force foreign`.
    """
    folder, found = INPUTS / "foreign", {}
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "sets.txt", "".join(f"{name}\n" for name in sets))
    for name, entry in sets.items():
        with suppress(UserError):  # the stage foreign says it
            found[f"foreign/{name}"] = link_inputs(name, entry, folder)
    return found


def link_inputs(name: str, entry: Dataset, folder: Path = INPUTS) -> list[Path]:
    """Make <folder>/<name> anew: a link to the one input of an entry, a folder of links to several, or a note of none.

    Returns:
        The inputs.
    """
    inputs = local_inputs(name, entry)
    _link_all(folder / name, inputs)
    return inputs


def link_if_there(name: str, entry: Dataset) -> list[Path]:
    """As link_inputs, of a set that perhaps nobody asks for: if its files are not there, only its download says so."""
    try:
        return link_inputs(name, entry)
    except UserError:
        _link_all(INPUTS / name, [])
        return []


def link_again(name: str, entry: Dataset) -> None:
    """Lead to what is there now, if DVC watches the entry: files may have come since the link was made."""
    if os.path.lexists(INPUTS / name):
        link_inputs(name, entry)


def link_model(name: str, local_path: str | None) -> list[Path]:
    """As link_if_there, for the weights of a frozen model."""
    path = user_path(local_path) if local_path else None
    inputs = [path] if path and path.exists() else []
    _link_all(MODELS / name, inputs)
    return inputs


def _link_all(link: Path, inputs: list[Path]) -> None:
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not inputs:
        link.write_text(NOTHING, encoding="utf-8")
    elif len(inputs) == 1:
        _link(link, inputs[0])
    else:
        link.mkdir()
        for number, path in enumerate(inputs):
            _link(link / f"{number}-{path.name}", path)


def _link(link: Path, path: Path) -> None:
    """Lead to a file of the clone by a relative link, so that a moved clone keeps it."""
    inside = repository() in path.parents
    link.symlink_to(os.path.relpath(path, link.parent.resolve()) if inside else path)
