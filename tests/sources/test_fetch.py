"""Claims: an interrupted transfer continues where it stopped and ends with the right bytes; parts of two versions of a
file are never joined; a file without the expected checksum never gets its name; errors name address, expectation and
remedy, and no secret; archives cannot write outside their folder."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
from source_helpers import serving, tar

from pipeline.sources.archives import extract
from pipeline.sources.transfer import FetchError, fetch, shown

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    with serving() as running:
        running.files["/set.bin"] = BODY
        yield running


def get(server, tmp_path, **kwargs):
    return fetch(f"{server.url}/set.bin", tmp_path / "set.bin", **{"sha256": SHA, "pause_s": 0.01, **kwargs})


def asked(server):
    """The ranges that were asked for."""
    return [wanted for _, wanted, _ in server.seen]


def test_resumes_after_cut_connections(server, tmp_path):
    server.num_cuts = 3
    assert get(server, tmp_path).read_bytes() == BODY
    assert asked(server) == [None, "bytes=524288-", "bytes=786432-", "bytes=917504-"]
    assert [p.name for p in tmp_path.iterdir()] == ["set.bin"]


def test_a_later_call_continues_the_part(server, tmp_path):
    server.num_cuts = 1
    server.change = lambda num_seen: server.status.update({"/set.bin": (503, {})} if num_seen else {})
    with pytest.raises(FetchError, match=r"gave up after 6 failures in a row.*524288 bytes that came are kept"):
        get(server, tmp_path, pause_s=0)
    server.seen.clear(), server.status.clear()
    server.change = lambda num_seen: None
    assert get(server, tmp_path).read_bytes() == BODY
    assert asked(server) == ["bytes=524288-"]
    get(server, tmp_path)
    assert asked(server) == ["bytes=524288-"]  # there and verified: nothing is asked


@pytest.mark.parametrize("etag", ['"v2"', ""], ids=["new ETag", "only the length tells"])
def test_versions_are_not_joined(server, tmp_path, etag):
    new = BODY[::-1] + b"longer"
    server.num_cuts, server.etag = 1, '"v1"' if etag else ""

    def change(num_seen):
        if num_seen:
            server.files["/set.bin"], server.etag = new, etag

    server.change = change
    assert get(server, tmp_path, sha256=None).read_bytes() == new


def test_a_bad_file_of_an_earlier_attempt_is_replaced(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"bad")
    (tmp_path / "set.bin.part").write_bytes(b"of unknown origin")
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status, message", [(404, "HTTP status 404"), (403, "login")])
def test_refusals_are_not_repeated_and_show_no_secret(server, tmp_path, status, message):
    server.status["/set.bin"] = (status, {})
    address, headers = f"{server.url}/set.bin?signature=s3cret", {"Authorization": "Bearer hf_secret"}
    with pytest.raises(FetchError, match=message) as caught:
        fetch(address, tmp_path / "x", sha256=None, headers=headers)
    assert len(server.seen) == 1
    assert "s3cret" not in str(caught.value) and "hf_secret" not in str(caught.value)


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    path.write_bytes(tar(members, mode))
    return path


GOOD = {"set/cat/a.png": b"a", "set/dög ü/b c.png": b"bc"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
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
