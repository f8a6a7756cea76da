"""Claims: an interrupted transfer continues where it stopped and ends with the right bytes; parts of two versions of a
file are never joined; a file without the expected checksum never gets its name; errors name address, expectation and
remedy; archives cannot write outside their folder, make links or fill the disk, and a half-unpacked folder is never
taken for whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.sources.archives import extract
from pipeline.sources.transfer import FetchError, fetch, shown

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` on any path; cuts the connection after `cut_after` bytes the first `num_cuts` times."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges = BODY, '"v1"', True
        self.cut_after, self.num_cuts, self.statuses = 300_000, 0, []
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}/set.bin"

    def handle_error(self, request, client_address):
        pass  # cut connections are meant


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses and (status := server.statuses.pop(0)):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if server.etag and self.headers.get("If-Range") not in (None, server.etag):
            start = 0
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.num_cuts:
            server.num_cuts -= 1
            rest = rest[: server.cut_after]
        self.wfile.write(rest)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, tmp_path, **kwargs):
    return fetch(server.url, tmp_path / "set.bin", **{"sha256": SHA, "pause_s": 0.01, **kwargs})


def test_resumes_after_cut_connections(server, tmp_path):
    server.num_cuts = 3
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["set.bin"]


def test_a_later_call_continues_the_part(server, tmp_path):
    server.num_cuts, server.statuses = 1, [None] + [503] * 5
    with pytest.raises(FetchError, match=r"gave up after 6 failures in a row.*300000 bytes that came are kept"):
        get(server, tmp_path, pause_s=0)
    server.asked.clear()
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=300000-"]
    get(server, tmp_path)
    assert server.asked == ["bytes=300000-"]  # there and verified: nothing is asked


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.num_cuts, server.ranges = 2, False
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("etag", ['"v2"', ""], ids=["new ETag", "only the length tells"])
def test_versions_are_not_joined(server, tmp_path, etag):
    new = BODY[::-1] + b"longer"
    server.num_cuts = 1
    if not etag:
        server.etag = ""
    original = Handler.do_GET

    def change_after_first(self):
        if self.server.asked:
            self.server.body, self.server.etag = new, etag
        original(self)

    try:
        Handler.do_GET = change_after_first
        got = get(server, tmp_path, sha256=None).read_bytes()
    finally:
        Handler.do_GET = original
    assert got == new


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(FetchError) as caught:
        get(server, tmp_path, sha256="0" * 64)
    for told in (server.url, "0" * 64, SHA, "params.yaml"):
        assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_of_an_earlier_attempt_is_replaced(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"bad")
    (tmp_path / "set.bin.part").write_bytes(b"of unknown origin")
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status, message", [(404, "HTTP status 404"), (401, "login"), (403, "login")])
def test_refusals_are_not_repeated(server, tmp_path, status, message):
    server.statuses = [status] * 9
    with pytest.raises(FetchError, match=message):
        get(server, tmp_path, headers={"Authorization": "Bearer hf_secret"})
    assert len(server.asked) == 1


def test_secrets_are_not_shown(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(FetchError) as caught:
        fetch(server.url + "?signature=s3cret", tmp_path / "x", sha256=None, headers={"Authorization": "hf_secret"})
    assert "s3cret" not in str(caught.value) and "hf_secret" not in str(caught.value)


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz", **special):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in special.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


GOOD = {"set/cat/a.png": b"a", "set/dög ü/b c.png": b"bc"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar"])
def test_unpacks(tmp_path, name):
    kind = name.rpartition(".")[2]
    archive = tmp_path / name
    make_zip(archive, GOOD) if kind == "zip" else make_tar(archive, GOOD, "w" if kind == "tar" else f"w:{kind}")
    out = extract(archive, tmp_path / "out")
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == GOOD
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out"])


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["/tmp/evil", "../evil", "a/../../evil", "..\\evil", "\\evil"])
def test_members_outside_are_refused(tmp_path, make, name):
    with pytest.raises(FetchError, match="points outside"):
        extract(make(tmp_path / "x", {"good": b"1", name: b"2"}), tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == []  # not even the good member stays


def test_a_user_name_in_an_address_is_not_shown():
    assert shown("https://me:s3cret@host:80/a/b?token=s3cret#x") == "https://host:80/a/b"
