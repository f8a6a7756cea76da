"""Claims: bundled sets, scikit-learn's digits, patches of its photographs (from disjoint regions), arrays and folders
give their pictures with the right labels and class names, a test split among them.
"""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_sample_images
from source_helpers import labels_of, png, read, write_arrays

from pipeline.sources.open import BUNDLED

# ---- bundled and scikit-learn


def test_bundled(tmp_path):
    classes, splits = read(tmp_path, "fashion-mnist-8k", source="bundled")
    assert len(classes) == 10 and classes[9] == "Ankle boot"
    assert np.bincount(labels_of(splits["train"])).tolist() == [600] * 10
    assert np.bincount(labels_of(splits["test"])).tolist() == [200] * 10
    with np.load(BUNDLED / "fashion-mnist-8k.npz", allow_pickle=False) as arrays:
        assert np.array_equal(splits["test"][7].content, arrays["x_test"][7])
    assert (BUNDLED / "fashion-mnist-8k.npz").stat().st_size < 5e6


def test_digits(tmp_path):
    classes, splits = read(tmp_path, "digits", source="sklearn", test_frac=0.25)
    assert classes == [str(i) for i in range(10)]
    assert len(splits["train"]) + len(splits["test"]) == 1797
    assert np.bincount(labels_of(splits["test"])).tolist() == [
        round(n / 4) for n in [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    ]
    stack = np.stack([picture.content for picture in splits["train"]])
    assert stack.dtype == np.uint8 and stack.shape[1:] == (8, 8) and (stack.min(), stack.max()) == (0, 255)
    again = read(tmp_path, "digits", source="sklearn", test_frac=0.25)[1]
    assert [p.where for p in again["test"]] == [p.where for p in splits["test"]]


@pytest.mark.parametrize(
    ("fields", "columns"),
    [({"patch_px": 32, "test_frac": 0.5}, (9, 10)), ({"patch_px": 32}, (15, 4)), ({"patch_px": 213}, (1, 1))],
)
def test_photo_patches(tmp_path, fields, columns):
    """Columns of patches that train and test; one column between them is nobody's."""
    classes, splits = read(tmp_path, "photo-patches", source="sklearn", dataset="sample_images", **fields)
    side = fields["patch_px"]
    num_rows = 427 // side
    assert classes == ["china", "flower"]
    photographs = [pixels[: num_rows * side] for pixels in load_sample_images().images]
    starts = {"train": 0, "test": columns[0] + 1}
    for (split, start), num_columns in zip(starts.items(), columns, strict=True):
        assert labels_of(splits[split]) == [0] * num_rows * num_columns + [1] * num_rows * num_columns
        region = slice(start * side, (start + num_columns) * side)
        patches = np.stack([picture.content for picture in splits[split]])
        assert patches.shape[1:] == (side, side, 3) and patches.dtype == np.uint8
        for label, photograph in enumerate(photographs):
            mine = patches.reshape(2, num_rows, num_columns, side, side, 3)[label]
            assert np.array_equal(mine.swapaxes(1, 2).reshape(num_rows * side, -1, 3), photograph[:, region])


# ---- arrays


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_with_a_test_split(tmp_path, suffix):
    x = np.random.default_rng(0).integers(0, 256, (600, 6, 5, 3), dtype=np.uint8)
    y = np.array(["a", "b"] * 300)
    path = tmp_path / f"my set{suffix}"
    write_arrays(path, x_train=x[:500], y_train=y[:500], xt=x[500:], yt=y[500:, None])
    classes, splits = read(tmp_path, source="arrays", path=str(path), test_images="xt", test_labels="yt")
    assert classes == ["a", "b"] and labels_of(splits["test"]) == [0, 1] * 50
    assert np.array_equal(np.stack([p.content for p in splits["train"]]), x[:500])
    assert splits["train"][300].where == f"my set{suffix}:x_train[300]"


def test_arrays_from_an_address(tmp_path, server):
    write_arrays(tmp_path / "a.npz", x_train=np.zeros((4, 2, 2), np.uint8), y_train=np.array([0, 1, 0, 1]))
    body = (tmp_path / "a.npz").read_bytes()
    server.files["/my set.npz"] = body
    fields = dict(source="arrays", url=f"{server.url}/my%20set.npz")
    server.num_cuts = 1
    assert read(tmp_path, **fields, sha256=hashlib.sha256(body).hexdigest())[0] == ["0", "1"]
    assert [wanted for _, wanted, _ in server.seen] == [None, f"bytes={len(body) // 2}-"]
    with pytest.warns(UserWarning, match="used without a checksum"):
        read(tmp_path / "third", **fields, sha256="unverified")


# ---- folder


@pytest.fixture
def pictures(tmp_path):
    """Colour pictures of unequal sizes, Unicode and spaces in names, decomposed accents (as macOS writes them)."""
    root = tmp_path / "my pictures"
    for name in ("köt ten", "do\u0308gs"):
        for i in range(5):
            path = root / name / f"n° {i}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(i, 10 + i, 20 - i, 3))
    (root / "köt ten" / ".DS_Store").touch()
    return root


def test_folder(tmp_path, pictures):
    classes, splits = read(tmp_path, source="folder", path=str(pictures), test_frac=0.4)
    assert classes == ["dögs", "köt ten"]
    assert labels_of(splits["train"]) == [0] * 3 + [1] * 3 and labels_of(splits["test"]) == [0] * 2 + [1] * 2
    where = {p.where: p.label for split in splits.values() for p in split}
    assert where["köt ten/n° 0.PNG"] == 1 and len(where) == 10


def zipped(folder, archive):
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder.parent))
    return archive.read_bytes()


def test_folder_in_an_archive(tmp_path, server, pictures):
    body = zipped(pictures, tmp_path / "x.zip")
    server.files["/x.zip"] = body
    fields = dict(source="folder", url=f"{server.url}/x.zip", sha256=hashlib.sha256(body).hexdigest())
    from_url = read(tmp_path, **fields)
    assert from_url[0] == ["dögs", "köt ten"] and len(server.seen) == 1
    assert read(tmp_path, **fields, train="my pictures")[0] == from_url[0]
    local = read(tmp_path / "other", source="folder", path=str(tmp_path / "x.zip"), train="my pictures")
    assert [p.where for p in local[1]["test"]] == [p.where for p in from_url[1]["test"]]
