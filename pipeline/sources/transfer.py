"""Downloads that resume after an interruption and are verified before they get their name."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from pipeline.runtime.bars import bar
from pipeline.runtime.errors import FetchError
from pipeline.runtime.files import sha256_file
from pipeline.sources.file_kinds import replaced

CHUNK_BYTES = 1 << 20
TIMEOUT_S = (15, 60)  # to connect, between two packets
MAX_FAILURES = 6  # in a row, without one byte of progress
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class _Broken(Exception):
    """The transfer stopped early; another attempt can go on from there."""


_INTERRUPTED = (_Broken, requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    num_bytes: int | None = None,
    headers: dict[str, str] | None = None,
    pause_s: float = 1.0,
) -> Path:
    """Download `url` to `target`; an interrupted transfer continues where it stopped.

    The bytes go to `<target>.part` and get their final name only when they are complete and verified. What identifies
    the remote file (its ETag or date, its length) is kept beside the part, so that no other version is glued on.

    Args:
        url: http(s) address.
        target: file to make; returned at once if it is there and verified.
        sha256: 64 hex digits, or None to accept any content.
        num_bytes: expected length, where it is known.
        headers: extra request headers, never shown; not sent on to another host after a redirect.
        pause_s: first pause before another attempt, doubled after each failure in a row.

    Returns:
        `target`.

    Raises:
        FetchError: naming the address, what was expected, what came and what to do.
    """
    if target.exists() and (sha256 is None or sha256_file(target) == sha256):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, headers or {})
            break
        except _INTERRUPTED as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= MAX_FAILURES:
                kept = f"the {_size(part)} bytes that came are kept, run the same command again"
                check = "check the address in a browser, the network and its proxy (HTTPS_PROXY)"
                raise FetchError(
                    f"{shown(url)}: gave up after {failures} failures in a row ({_reason(error)}); "
                    f"{kept if _size(part) else check}"
                ) from None
            time.sleep(min(60.0, pause_s * 2 ** (failures - 1)))
        except OSError as error:
            raise _disk_error(error, url, part) from error
    _verify(url, part, sha256, num_bytes)
    part.replace(target)
    _notes(part).unlink(missing_ok=True)
    return target


def _transfer(url: str, part: Path, headers: dict[str, str]) -> None:
    """Append to `part` what it lacks; start over where the server cannot continue the same file."""
    known = _read_notes(part)
    offset = _size(part) if known.get("url") == url else 0
    # identity: a length and an offset mean bytes of the file, not of a compressed stream
    asked = {**headers, "Accept-Encoding": "identity"}
    if offset:
        asked["Range"] = f"bytes={offset}-"
        if known["tag"]:
            asked["If-Range"] = known["tag"]
    with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT_S) as response:
        if offset and response.status_code == 416:  # nothing left to send, or another file
            if known["total"] == offset:
                return
            _discard(part)
            raise _Broken("the remote file changed")
        _check_status(url, response.status_code)
        sent = response.headers
        total = _total(sent, response.status_code)
        _check_room(url, part, total)
        if response.status_code == 206 and not (offset and _continues(sent, offset, total, known)):
            _discard(part)
            raise _Broken("the remote file changed")
        if response.status_code == 200:
            offset = 0
            tag = sent.get("ETag", "")
            tag = sent.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
            part.write_bytes(b"")
            _notes(part).write_text(json.dumps({"url": url, "tag": tag, "total": total}))
        _append(response, part, offset, total)
    if total is not None and _size(part) != total:
        raise _Broken(f"{_size(part)} of {total} bytes came")


def _append(response: requests.Response, part: Path, offset: int, total: int | None) -> None:
    with part.open("ab") as file, bar(part.name.removesuffix(".part"), total, unit="B", initial=offset) as told:
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            file.write(chunk)
            told.update(len(chunk))


def _continues(sent: requests.structures.CaseInsensitiveDict, offset: int, total: int | None, known: dict) -> bool:
    """Whether the answer is the rest of the very file that the part began with."""
    start = sent.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    same_tag = not known["tag"].startswith('"') or sent.get("ETag", known["tag"]) == known["tag"]
    return start == str(offset) and total == known["total"] and same_tag


def _total(sent: requests.structures.CaseInsensitiveDict, status: int) -> int | None:
    text = sent.get("Content-Range", "").rpartition("/")[2] if status == 206 else sent.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _check_room(url: str, part: Path, total: int | None) -> None:
    """Refuse at the first byte what the disk cannot take."""
    missing, free = (total or 0) - _size(part), shutil.disk_usage(part.parent).free
    if missing > free:
        raise FetchError(
            f"{shown(url)}: {missing / 1e6:.1f} MB are to come but the disk of {part.parent} has {free / 1e6:.1f} MB "
            "left; free some space, then run it again"
        )


def _check_status(url: str, status: int) -> None:
    if status in _RETRIED:
        raise _Broken(f"HTTP status {status}")
    if status in (401, 403):
        raise FetchError(f"{shown(url)}: access denied (HTTP status {status}); it needs a login or accepted terms")
    if status not in (200, 206):
        raise FetchError(
            f"{shown(url)}: HTTP status {status}; open the address in a browser: if it has moved, check the address in "
            "params.yaml"
        )


def _verify(url: str, part: Path, sha256: str | None, num_bytes: int | None) -> None:
    got = _size(part)
    if num_bytes is not None and got != num_bytes:
        _discard(part)
        raise FetchError(
            f"{shown(url)}: expected {num_bytes} bytes, got {got}, which are removed; what is there has changed, or a "
            "proxy sends something else: open the address in a browser"
        )
    if sha256 is None:
        return
    digest = sha256_file(part)
    if digest != sha256:
        what = replaced(part)
        _discard(part)
        if what:
            raise FetchError(f"{shown(url)}: {what}; sha256 of the file itself: {sha256}")
        raise FetchError(
            f"{shown(url)}: wrong checksum\n  expected sha256 {sha256}\n  got      sha256 {digest} ({got} bytes)\n"
            "The bad file is removed. Run the command again; if it happens again the file at that address has changed: "
            "check it, then correct sha256 in params.yaml."
        )


def fetch_anew(path: Path, is_fetched: bool) -> str:
    """Return the remedy for a damaged file: of ours, which is downloaded when it is not there, or of the user's."""
    if is_fetched:
        return f"remove it, it is then fetched anew: rm {shlex.quote(str(path))}"
    return "copy it again from where it came, and compare the sizes"


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _read_notes(part: Path) -> dict:
    """What the server said when the part began; {} if nobody knows, so that the part is not continued."""
    try:
        known = json.loads(_notes(part).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and known.keys() >= {"url", "tag", "total"} else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def shown(url: str) -> str:
    """Return the address without user name, password and query, any of which may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    if isinstance(error, _Broken):
        return str(error)
    return "timed out" if isinstance(error, requests.Timeout) else f"the connection failed: {type(error).__name__}"


def _disk_error(error: OSError, url: str, part: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(f"{shown(url)}: the disk is full at {part.parent}; free some space, then run it again")
    return FetchError(f"{shown(url)}: cannot write {part}: {error.strerror}")
