"""Archives that cannot write outside their folder, nor fill the disk."""

from __future__ import annotations

import errno
import lzma
import shlex
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.runtime.bars import bar
from pipeline.sources.file_kinds import check_readable, mistaken, no_permission
from pipeline.sources.transfer import CHUNK_BYTES, FetchError, fetch_anew

MAX_EXPANSION = 100  # pictures are compressed already; archives of them expand less than 2 times
SMALL_BYTES = 1 << 30  # below this an archive of any ratio is harmless
_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}  # of zip archives, not of Python
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


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


def check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip archive that is whole but needs a password or another program.

    Raises:
        FetchError: with the reason and a remedy.
    """
    by_hand = f"unpack it by hand (7z x {shlex.quote(str(archive))}) and give the path of what comes out"
    if any(info.flag_bits & 1 for info in members):
        raise FetchError(f"{archive}: encrypted, a password is needed; {by_hand}")
    if odd := sorted({info.compress_type for info in members} - set(_READABLE)):
        method = _METHODS.get(odd[0], f"method {odd[0]}")
        raise FetchError(f"{archive}: compressed with {method}, which is not supported here; {by_hand}")


def extract(archive: Path, into: Path, *, is_fetched: bool = False) -> Path:
    """Unpack a zip or tar archive (compressed in any way Python reads) into a new folder.

    The folder appears under its name only when everything is out.

    Args:
        archive: the file.
        into: folder to make; if it is there already it is complete and returned as it is.
        is_fetched: whether it was downloaded, for the remedy.

    Raises:
        FetchError: an absolute or '..' member, a link or device, an encrypted, unsupported or truncated archive,
            contents of more than 1 GiB and 100 times the archive's size, or no room on the disk.
    """
    if into.exists():
        return into
    begun = into.with_name(into.name + ".begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    limit = max(SMALL_BYTES, MAX_EXPANSION * archive.stat().st_size)
    try:
        check_readable(archive)
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, begun, limit)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, begun, limit)
        else:
            raise FetchError(
                mistaken(archive) or f"{archive}: neither a zip nor a tar archive; give an archive or a folder"
            )
        begun.replace(into)
    except FetchError:
        raise
    except _DAMAGED as error:
        raise FetchError(f"{archive}: damaged archive ({error}); {fetch_anew(archive, is_fetched)}") from error
    except OSError as error:
        if isinstance(error, PermissionError) and error.filename not in (None, str(archive)):
            raise  # it is about writing
        raise FetchError(_told(error, archive, begun, is_fetched)) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return into


def _told(error: OSError, archive: Path, begun: Path, is_fetched: bool) -> str:
    if error.errno is None:  # gzip and bz2 say so of damage
        return f"{archive}: damaged archive ({error}); {fetch_anew(archive, is_fetched)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{archive}: the disk is full at {begun.parent}; free some space and try again"
    if isinstance(error, PermissionError):
        return no_permission(archive)
    return (
        f"{archive}: cannot be unpacked to {begun.parent} ({error.strerror}: {error.filename}); unpack it by hand on "
        "another disk and give the path of what comes out"
    )


def _extract_zip(archive: Path, into: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        room, members = limit, opened.infolist()
        check_members(archive, members)
        _check_size(archive, sum(info.file_size for info in members), limit, into)
        for info in bar(f"unpacking {archive.name}", None, unit="file", delay_s=1, iterable=members):
            kind = stat.S_IFMT(info.external_attr >> 16)
            member = _Member(info.filename, info.file_size, info.is_dir(), kind in (0, stat.S_IFREG, stat.S_IFDIR))
            out = _check_member(archive, member, into)
            if not info.is_dir():
                with opened.open(info) as source:  # raises if the content exceeds what the header says
                    room = _copy(archive, source, out, room)


def _extract_tar(archive: Path, into: Path, limit: int) -> None:
    with tarfile.open(archive, "r:*") as opened:
        room = limit
        for info in bar(f"unpacking {archive.name}", None, unit="file", delay_s=1, iterable=_members(opened)):
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
