"""Claims: parquet sets of the hub are read with class names, through its own API with the checksums it states; a cut
transfer resumes; a token is sent and never shown; wrong splits, columns and revisions are refused with what there is.
"""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_helpers import entry, labels_of, png, read, run_stage

from pipeline.sources.open import open_source
from pipeline.sources.transfer import FetchError

TOKEN = "hf_thisIsSecret"


# ---- parquet and the hub


def parquet(path, images, labels, names=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array(
        [{"bytes": b, "path": None} for b in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": image, "label": labels, **columns})
    if names:
        features = {
            "info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}
        }
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pq.write_table(table, path, row_group_size=3)
    return path.read_bytes()


COMMIT = "c" * 40


def quoted(text):
    return text.replace("/", "%2F")


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The hub's API and files of the set me/cats, with the hub's converted parquet files."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = tmp_path / "hub"
    files = {
        "default/train/0000.parquet": parquet(
            made / "a", [png(i, 6, 7, 3) for i in range(7)], [0, 1] * 3 + [0], ["cat", "dog"]
        ),
        "default/train/0001.parquet": parquet(made / "b", [png(9, 5, 9, 3)], [1], ["cat", "dog"]),
        "default/test/0000.parquet": parquet(made / "c", [png(i, 6, 7, 3) for i in (20, 21)], [1, 0], ["cat", "dog"]),
        "default/partial-big/0000.parquet": b"",
        "README.md": b"#",
    }
    publish(server, "me/cats", "refs/convert/parquet", files)
    return server


def publish(server, repo, revision, files):
    api = f"/api/datasets/{repo}"
    server.files[f"{api}/revision/{revision}"] = json.dumps({"id": repo, "sha": COMMIT}).encode()
    tree = []
    for path, content in files.items():
        item = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
        if path.endswith(".parquet"):
            digest = hashlib.sha256(content).hexdigest()
            item["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        tree.append(item)
        server.files[f"/datasets/{repo}/resolve/{COMMIT}/{path}"] = content
    server.files[f"{api}/tree/{COMMIT}"] = json.dumps(tree).encode()


def test_hub(tmp_path, hub):
    hub.num_cuts = 2
    source = open_source("cats", entry(source="huggingface", repo="me/cats"), tmp_path / "scratch")
    splits = {split: list(pictures) for split, pictures in source.splits.items()}
    assert source.classes == ["cat", "dog"] and source.origin == f"me/cats at {COMMIT}"
    assert labels_of(splits["train"]) == [0, 1] * 3 + [0, 1] and labels_of(splits["test"]) == [1, 0]
    assert splits["train"][7].content == png(9, 5, 9, 3) and splits["test"][0].content == png(20, 6, 7, 3)
    transfers = [(path, wanted) for path, wanted, _ in hub.seen if "/resolve/" in path]
    assert sum(wanted is not None for _, wanted in transfers) >= 1  # resumed
    assert all(sent == f"Bearer {TOKEN}" for _, _, sent in hub.seen)


def test_hub_wrong_bytes(tmp_path, hub):
    path = f"/datasets/me/cats/resolve/{COMMIT}/default/test/0000.parquet"
    hub.files[path] = hub.files[path][:-1] + b"!"
    with pytest.raises(FetchError, match="wrong checksum"):
        read(tmp_path, source="huggingface", repo="me/cats")


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(splits={"train": "trian"}), "splits: unknown split 'trian'; did you mean 'train'"),
        (dict(splits={"train": "big"}), "only a part of 'big'; try revision: main"),
        (dict(config="small"), "config: unknown configuration 'small'.*default"),
        (dict(image_column="img"), "image_column: unknown column 'img'.*image"),
    ],
)
def test_hub_wrong_settings(tmp_path, hub, fields, message):
    with pytest.raises(FetchError, match=message):
        read(tmp_path, source="huggingface", repo="me/cats", **fields)


@pytest.mark.parametrize(
    "code, message",
    [
        ("GatedRepo", "is gated: accept its terms there and log in with `hf auth login`"),
        ("RepoNotFound", "repo: no data set at .*/datasets/me/cats"),
        ("RevisionNotFound", "revision: .* has no 'refs/convert/parquet'; try revision: main"),
    ],
)
def test_hub_refusals_never_show_the_token(tmp_path, hub, code, message, capfd):
    status = 403 if code == "GatedRepo" else 404
    hub.status["/api/datasets/me/cats/revision/refs/convert/parquet"] = (status, {"X-Error-Code": code})
    with pytest.raises(FetchError, match=message) as caught:
        read(tmp_path, source="huggingface", repo="me/cats")
    assert any(TOKEN in (sent or "") for _, _, sent in hub.seen)  # it was sent
    assert TOKEN not in str(caught.value) + "".join(capfd.readouterr())


def test_hub_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"cannot be read .*check the network"):
        read(tmp_path, source="huggingface", repo="me/cats")


@pytest.mark.seconds
def test_a_download_leaves_no_token(tmp_path, hub):
    place = tmp_path / "place"
    place.mkdir()
    environment = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_DEBUG": "1"}
    done = run_stage(place, "cats", {"cats": {"source": "huggingface", "repo": "me/cats"}}, **environment)
    assert done.returncode == 0, done.stderr
    assert any(sent == f"Bearer {TOKEN}" for _, _, sent in hub.seen)
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in place.rglob("*") if path.is_file()]
    assert place / "data/cats/meta.json" in written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
