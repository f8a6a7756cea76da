"""Pictures kept in one folder per class, in a local folder or an archive; everything that is found is accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.catalogue.datasets import Folder
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import FetchError, UserError, together
from pipeline.sources.file_kinds import no_permission
from pipeline.sources.labels import as_name, check_names, escaped
from pipeline.sources.splits import Account, RawDataset

PICTURE_SUFFIXES = {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_ROLES = {"train": {"train", "training"}, "test": {"test", "testing"}, "val": {"val", "valid", "validation"}}


class _Class(NamedTuple):
    """A class folder: the pictures in it, at any depth, and how many other things."""

    folder: Path
    pictures: list[Path]
    num_others: int


def open_folder(entry: Folder, root: Path, origin: str) -> RawDataset:
    """List the pictures below a folder.

    Linked folders are followed. What is hidden, unreadable or no picture is left out and counted.

    Raises:
        FetchError: folders in which no classes can be seen, class folders without pictures; all of them at once.
        UserError: names that are no UTF-8.
    """
    account = Account()
    parts = {"train": entry.train} | ({"test": entry.test} if entry.test else {})
    if not {"train", "test"} & entry.model_fields_set:
        parts = _guess_parts(root, account)
    scan = _Scan(root, account)
    found: dict[str, list[_Class]] = {}
    faults = []
    for split, part in parts.items():
        try:
            found[split] = scan.classes(root / part, split)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise FetchError(together(faults))
    check_names("file and folder names", scan.odd_names)
    labels, pictures = {}, {}
    for split, classes in found.items():
        files = [(file, as_name(member.folder.name)) for member in classes for file in member.pictures]
        labels[split] = np.array([name for _, name in files])
        pictures[split] = partial(_named_files, [file for file, _ in files], root)
    return RawDataset(labels, pictures, None, origin, account)


def _named_files(files: list[Path], root: Path) -> Iterator[tuple[Path, str]]:
    return ((file, file.relative_to(root).as_posix()) for file in files)


# ---- train and test by their names


def _guess_parts(root: Path, account: Account) -> dict[str, str]:
    """Find the folders of classes: below single folders, and in train/ and test/ (or val/) if there are both."""
    top, names = root, _folder_names(root)
    while len(names) == 1 and len(below := _folder_names(top / names[0])) > 0:
        top, names = top / names[0], below
    here = top.relative_to(root).as_posix()
    roles = {role: [name for name in names if name.lower() in words] for role, words in _ROLES.items()}
    if doubled := [found for found in roles.values() if len(found) > 1]:
        raise FetchError(f"{top} has {' and '.join(doubled[0])}; set train and test to the folders that are meant")
    train, test, val = (found[0] if found else "" for found in roles.values())
    if not train or not (test or val):
        _check_no_splits(top, here, names, train, [name for name in names if name not in (train, test, val)])
        if top != root:
            account.notes.append(f"the class folders are in {here}")
        return {"train": here}
    chosen = {"train": train, "test": test or val}
    told = " and ".join(f"{name}/ as {split}" for split, name in chosen.items())
    account.notes.append(f"taken by their names: {told}" + (f", in {here}" if top != root else ""))
    for name in names:
        if name not in chosen.values():
            num = sum(len(files) for _, _, files in os.walk(top / name))
            account.num_found += num
            account.leave_out(f"files of {name}/, which is neither train nor test", count=num)
    return {split: (Path(here) / name).as_posix() for split, name in chosen.items()}


def _check_no_splits(top: Path, here: str, names: list[str], train: str, others: list[str]) -> None:
    """Refuse what looks like splits rather than classes and cannot be taken as train and test."""
    if names and not others:
        raise FetchError(f"{top} holds splits ({', '.join(names)}) and none to train on; set train to one of them")
    if train and len(_folder_names(top / train)) > 1:
        path = (Path(here) / train).as_posix()
        raise FetchError(
            f"{top} has folders in {train}/, beside {', '.join(others[:10])}; set train: {path} if classes are in it, "
            f"or train: {here} if it is a class itself"
        )


def _folder_names(folder: Path) -> list[str]:
    with _told_permission(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry) and not _is_hidden(entry.name))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, or to itself
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


@contextmanager
def _told_permission(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise FetchError(no_permission(folder)) from error


# ---- class folders


class _Scan:
    """Walks through folders and enters into an account what is no picture."""

    def __init__(self, root: Path, account: Account) -> None:
        self.root, self.account = root, account
        self.odd_names: list[str] = []

    def classes(self, folder: Path, split: str) -> list[_Class]:
        """Return the class folders of a split in the order of their names, with their pictures."""
        if not folder.is_dir():
            raise FetchError(f"{split}: there is no folder {folder}")
        names = _folder_names(folder)
        with bar(f"looking through {folder.name or folder}", None, unit="file", delay_s=2) as told:
            loose = self._beside(folder)
            classes = [self._class(folder / name, told) for name in names]
        empty = [member for member in classes if not member.pictures and not member.num_others]
        for member in empty:
            self._leave_out("empty class folders", member.folder)
        if barren := [member for member in classes if not member.pictures and member.num_others]:
            raise FetchError(together([self._told_barren(member) for member in barren]))
        classes = [member for member in classes if member.pictures]
        if len(classes) < 2:
            flat = f"; {loose} pictures lie in it directly, put them into a folder per class" if loose else ""
            hint = f"; if the classes are in {names[0]}, set {split}: {names[0]}" if len(names) == 1 else flat
            raise FetchError(f"{split}: at least 2 class folders are needed in {folder}, got {len(classes)}{hint}")
        return classes

    def _leave_out(self, reason: str, path: Path) -> None:
        self.account.num_found += 1
        self.account.leave_out(reason, escaped(path.relative_to(self.root).as_posix()))

    def _beside(self, folder: Path) -> int:
        """Leave out what lies beside the class folders; return the number of pictures among it."""
        with os.scandir(folder) as entries:
            others = sorted(entry.name for entry in entries if not _is_folder(entry) or _is_hidden(entry.name))
        for name in others:
            reason = "hidden files and folders" if _is_hidden(name) else "files beside the class folders"
            self._leave_out(reason, folder / name)
        return sum(Path(name).suffix.lower() in PICTURE_SUFFIXES for name in others)

    def _told_barren(self, member: _Class) -> str:
        reasons = [
            f"{reason} ({', '.join(examples)})"
            for reason, examples in self.account.examples.items()
            if any(
                Path(name).is_relative_to(escaped(member.folder.relative_to(self.root).as_posix())) for name in examples
            )
        ]
        why = f": {'; '.join(reasons)}" if reasons else ""
        return (
            f"class folder {escaped(str(member.folder))} has no picture ({', '.join(sorted(PICTURE_SUFFIXES))}){why}; "
            "convert or repair what is there, or remove it"
        )

    def _class(self, folder: Path, told: tqdm) -> _Class:
        pictures: list[Path] = []
        before = self.account.num_found
        self._check_name(folder)
        self._walk(folder, (), pictures, told)
        num_others = self.account.num_found - before
        self.account.num_found += len(pictures)
        pictures.sort()
        if deeper := [file for file in pictures if file.parent != folder]:
            example = escaped(deeper[0].relative_to(self.root).as_posix())
            self.account.notes.append(
                f"{len(deeper)} pictures of {escaped(folder.name)} lie in folders of it, as {example}"
            )
        return _Class(folder, pictures, num_others)

    def _walk(self, folder: Path, above: tuple, pictures: list[Path], told: tqdm) -> None:
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                self._leave_out("linked folders that lead back to where they are", folder)
                return
            with os.scandir(folder) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            self._leave_out("folders without permission to read (chmod u+rx)", folder)
            return
        for entry in entries:
            path = folder / entry.name
            told.update()
            if reason := self._reason(entry):
                self._leave_out(reason, path)
            elif _is_folder(entry):
                self._check_name(path)
                self._walk(path, (*above, identity), pictures, told)
            else:
                self._check_name(path)
                pictures.append(path)
                self.account.read(entry.stat().st_size)

    def _check_name(self, path: Path) -> None:
        if escaped(path.name) != path.name:
            self.odd_names.append(path.relative_to(self.root).as_posix())

    def _reason(self, entry: os.DirEntry) -> str:
        """Return why an entry of a class folder is left out; "" if it is a folder or a picture."""
        if _is_hidden(entry.name):
            return "hidden files and folders"
        if _is_folder(entry):
            return ""
        if Path(entry.name).suffix.lower() not in PICTURE_SUFFIXES:
            return "files without a picture's suffix"
        if not os.path.isfile(entry.path):
            return "links that lead nowhere" if entry.is_symlink() else "neither files nor folders"
        return "" if os.access(entry.path, os.R_OK) else "files without permission to read (chmod u+r)"
