"""Archives that cannot write outside their folder, nor fill the disk."""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.fetch import CHUNK_BYTES, FetchError

MAX_EXPANSION = 100  # pictures are compressed already; archives of them expand less than 2 times
SMALL_BYTES = 1 << 30  # below this an archive of any ratio is harmless


# What Python's readers raise for damaged files: their own errors, and whatever the damage makes them trip over.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError),
)


class _Member(NamedTuple):
    name: str
    num_bytes: int
    is_folder: bool
    is_plain: bool  # neither a link nor a device


def extract(archive: Path, into: Path) -> Path:
    """Unpack a zip or tar archive (compressed in any way Python reads) into a new folder.

    The folder appears under its name only when everything is out.

    Args:
        archive: the file.
        into: folder to make; if it is there already it is complete and returned as it is.

    Raises:
        FetchError: an absolute or '..' member, a link or device, an encrypted or truncated archive, contents of more
            than 1 GiB and 100 times the archive's size, or no room on the disk.
    """
    if into.exists():
        return into
    begun = into.with_name(into.name + ".begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    limit = max(SMALL_BYTES, MAX_EXPANSION * archive.stat().st_size)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, begun, limit)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, begun, limit)
        else:
            raise FetchError(f"{archive}: neither a zip nor a tar archive")
        begun.replace(into)
    except FetchError:
        raise
    except _DAMAGED as error:
        raise FetchError(f"{archive}: damaged or encrypted archive ({error}); fetch it again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"{archive}: the disk is full at {begun.parent}; free some space and try again") from error
        raise FetchError(f"{archive}: damaged archive or unwritable folder ({error})") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return into


def _extract_zip(archive: Path, into: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        room = limit
        _check_size(archive, sum(info.file_size for info in opened.infolist()), limit, into)
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            member = _Member(info.filename, info.file_size, info.is_dir(), kind in (0, stat.S_IFREG, stat.S_IFDIR))
            out = _check_member(archive, member, into)
            if not info.is_dir():
                with opened.open(info) as source:  # raises if the content exceeds what the header says
                    room = _copy(archive, source, out, room)


def _extract_tar(archive: Path, into: Path, limit: int) -> None:
    with tarfile.open(archive, "r:*") as opened:
        room = limit
        for info in _members(opened):
            member = _Member(info.name, info.size, info.isdir(), info.isreg() or info.isdir())
            out = _check_member(archive, member, into)
            if info.isreg():
                with opened.extractfile(info) as source:
                    room = _copy(archive, source, out, room)


def _members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := opened.next()) is not None:
        opened.members.clear()  # a TarFile remembers every member: a gigabyte for millions of pictures
        yield info


def _check_member(archive: Path, member: _Member, into: Path) -> Path:
    """Return where a member goes, with its folder made; refuse what could reach outside `into`."""
    parts = member.name.replace("\\", "/").split("/")
    if member.name.startswith(("/", "\\")) or ".." in parts:
        raise FetchError(f"{archive}: member {member.name!r} points outside the archive; nothing of it is used")
    if not member.is_plain:
        raise FetchError(f"{archive}: member {member.name!r} is a link or a device; only files and folders are allowed")
    out = into.joinpath(*parts)
    (out if member.is_folder else out.parent).mkdir(parents=True, exist_ok=True)
    return out


def _copy(archive: Path, source: IO[bytes], out: Path, room: int) -> int:
    """Write one member, return how many bytes the archive may still expand to."""
    with out.open("wb") as file:
        while block := source.read(CHUNK_BYTES):
            room -= len(block)
            if room < 0:
                raise _bomb(archive)
            file.write(block)
    return room


def _check_size(archive: Path, num_bytes: int, limit: int, into: Path) -> None:
    """Refuse before anything is written what the headers say to be too large."""
    if num_bytes > limit:
        raise _bomb(archive)
    if num_bytes > (free := shutil.disk_usage(into).free):
        raise FetchError(
            f"{archive}: it needs {num_bytes / 1e6:.1f} MB but the disk of {into.parent} has {free / 1e6:.1f} MB left; "
            "free some space and try again"
        )


def _bomb(archive: Path) -> FetchError:
    return FetchError(
        f"{archive}: expands to more than {MAX_EXPANSION} times its size (and {SMALL_BYTES >> 30} GiB), "
        "like an archive made to fill a disk; unpack it by hand if you trust it, and give its path"
    )
