"""Kinds of files by their first bytes, with a reason and a remedy for each unusable one."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.runtime.errors import FetchError

_BY_HAND = "unpack it by hand and give the folder as path"
_PICKLE = ("a pickle, which is never loaded because it can run any program", "save its arrays with numpy.savez")
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": (
        "a pointer of Git LFS in place of the file",
        "run `git lfs pull` in its folder, or fetch the file itself",
    ),
    b"/annex/objects/": ("a pointer of git-annex in place of the file", "run `git annex get` on it"),
}
_KINDS = {
    b"Rar!": ("a RAR archive, which is not supported", _BY_HAND),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive, which is not supported", _BY_HAND),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard, which is not supported", _BY_HAND),
    b"\x93NUMPY": (
        "a .npy file of one array",
        "save pictures and labels together, as in numpy.savez('set.npz', images=images, labels=labels)",
    ),
    **{b"\x80" + version: _PICKLE for version in (b"\x02", b"\x03", b"\x04", b"\x05")},
    b"PAR1": ("a parquet file", "use source: huggingface with its path"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, or what is left of one", "use source: arrays if it is whole"),
    b"\x89PNG": ("a single picture", "put the pictures into a folder per class and give that folder as path"),
    b"\xff\xd8\xff": ("a single picture", "put the pictures into a folder per class and give that folder as path"),
    b"PK\x03\x04": ("a zip archive whose end is missing: the transfer was cut short", "fetch it anew"),
    b"\x1f\x8b": (
        "compressed with gzip, but no tar archive or cut short",
        "unpack it by hand (gunzip)",
    ),
}


def check_readable(path: Path) -> None:
    """Refuse a file that cannot be opened, or has no content.

    Raises:
        FetchError: with the reason and a remedy.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise FetchError(f"{path} is empty (0 bytes); put the file itself there")
    except PermissionError as error:
        raise FetchError(no_permission(path)) from error


def no_permission(path: Path) -> str:
    """Return what to tell of a file or folder that may not be read."""
    right = "rx" if path.is_dir() else "r"
    return f"no permission to read {path}; its owner can give it: chmod u+{right} {shlex.quote(str(path))}"


def replaced(path: Path) -> str:
    """Return what lies in place of a file, a web page or a pointer, and the remedy; "" if it is neither."""
    begin = _begin(path)
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{path} is a web page that was saved in place of the file, such as a login or error page; "
            "open the address in a browser and save the file itself"
        )
    return _look_up(path, begin, _POINTERS)


def mistaken(path: Path) -> str:
    """Return what a file is, by its first bytes, and the remedy; "" if it is nothing that is known here."""
    return replaced(path) or _look_up(path, _begin(path), _KINDS)


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def _look_up(path: Path, begin: bytes, marks: dict[bytes, tuple[str, str]]) -> str:
    return next((f"{path} is {what}; {remedy}" for mark, (what, remedy) in marks.items() if begin.startswith(mark)), "")
