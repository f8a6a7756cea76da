"""Addresses and archives that `python -m stages.download` must refuse."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

from bad_place import Attempt, Place, bad

from pipeline.sources import archives, transfer
from stages import download

# addresses


@bad("address: a wrong checksum", "datasets.new", "wrong checksum", "0000", "correct sha256 in params.yaml")
def _(place):
    server = place.serve()
    server.files["/x.npz"] = b"whatever"
    place.set_of(source="arrays", url=f"{server.url}/x.npz", sha256="0" * 64)
    return download, "new"


@bad("address: access denied", "datasets.new", "access denied (HTTP status 403)", "login")
def _(place):
    server = place.serve()
    server.status["/x.npz"] = (403, {})
    place.set_of(source="arrays", url=f"{server.url}/x.npz", sha256="0" * 64)
    return download, "new"


@bad(
    "address: nobody answers", "datasets.new", "http://127.0.0.1:9/x.npz", "gave up", "check the address", "HTTPS_PROXY"
)
def _(place):
    place.monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    place.set_of(source="arrays", url="http://127.0.0.1:9/x.npz", sha256="0" * 64)
    return download, "new"


# archives


def archive(place: Place, name: str, write: Callable[[str], None]) -> Attempt:
    write(name)
    place.set_of(source="folder", path=name)
    return download, "new"


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[str], None]:
    def write(name: str) -> None:
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as opened:
            for member, content in members:
                opened.writestr(member, content)

    return write


def tar_of(name: str, **special: Any) -> Callable[[str], None]:
    def write(path: str) -> None:
        with tarfile.open(path, "w") as opened:
            info = tarfile.TarInfo(name)
            for key, value in special.items():
                setattr(info, key, value)
            opened.addfile(info, io.BytesIO(b""))

    return write


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a/link.png")
    info.external_attr = 0o120777 << 16
    return info


OUTSIDE, LINK = ("points outside the archive", "nothing of it is used"), ("is a link or a device", "only files and")
HOSTILE = {
    "a member above": ("x.zip", zip_of(("a/../../evil.png", b"1")), ("'a/../../evil.png'", *OUTSIDE)),
    "an absolute member of a tar": ("x.tar", tar_of("/tmp/evil.png"), ("'/tmp/evil.png'", *OUTSIDE)),
    "a link in a zip": ("x.zip", zip_of((zip_link(), b"/etc/passwd")), ("'a/link.png'", *LINK)),
    "a symbolic link": ("x.tar", tar_of("a/1.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), ("'a/1.png'", *LINK)),
}
for _name, (_file, _write, _words) in HOSTILE.items():
    bad(f"archive: {_name}", "datasets.new", *_words)(lambda place, f=_file, w=_write: archive(place, f, w))


@bad("archive: a bomb", "datasets.new", "expands to more than 100 times", "unpack it by hand if you trust it")
def _(place):
    place.monkeypatch.setattr(archives, "SMALL_BYTES", 1 << 20)
    return archive(place, "x.zip", zip_of(("a/1.png", bytes(8 << 20)), ("b/1.png", b"")))


@bad("archive: a bomb that lies about its size", "datasets.new", "expands to more than 100 times")
def _(place):
    place.monkeypatch.setattr(archives, "SMALL_BYTES", 1 << 20)

    def write(name: str) -> None:
        with tarfile.open(name, "w:xz") as opened:
            for index in range(4):
                info = tarfile.TarInfo(f"a/{index}.png")
                info.size = 4 << 20
                opened.addfile(info, io.BytesIO(bytes(4 << 20)))

    return archive(place, "x.tar.xz", write)
