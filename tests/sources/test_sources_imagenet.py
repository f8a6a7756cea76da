"""Claims: ImageNet is read inside its archives, byte for byte, and nothing but the development kit is unpacked; labels
and class names are torchvision's own; training pictures come with all classes evenly mixed, each class in the order of
its archive; a missing or damaged archive is told with the remedy."""

from __future__ import annotations

import hashlib
import io
from collections import Counter

import numpy as np
import pytest
import scipy.io
from PIL import Image
from source_helpers import labels_of, read, tar
from torchvision.datasets import ImageNet, imagenet

from pipeline.sources.transfer import FetchError

NUM_PICTURES = {"n02000003": 6, "n01000001": 3, "n03000002": 12}  # as uneven as nothing in ImageNet
WORDS = {"n01000001": "tench, Tinca tinca", "n02000003": "crane", "n03000002": "crane"}
VAL = ["n03000002", "n01000001", "n02000003", "n03000002"]
FILES = [name for name, _ in imagenet.ARCHIVE_META.values()]


def jpeg(seed: int) -> bytes:
    pixels, out = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def kit() -> bytes:
    """meta.mat has leaves, which are classes, and inner nodes of WordNet, which are not."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    rows = [
        (i + 1, wnid, words, "gloss", 0, [], 0) for i, (wnid, words) in enumerate(sorted(WORDS.items(), reverse=True))
    ]
    rows.append((4, "n00001740", "entity", "gloss", 2, [1, 2], 1))
    out = io.BytesIO()
    scipy.io.savemat(out, {"synsets": np.array(rows, dtype=[(field, object) for field in fields]).reshape(-1, 1)})
    number = {wnid: i for i, wnid, *_ in rows}
    truth = "".join(f"{number[wnid]}\n" for wnid in VAL).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    return tar(
        {f"{folder}/meta.mat": out.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth}, "w:gz"
    )


@pytest.fixture
def pictures():
    """Every picture by its name."""
    names = [f"{wnid}_{i}.JPEG" for wnid, num in NUM_PICTURES.items() for i in (np.arange(num) * 7 + 10).tolist()]
    names += [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(VAL))]
    return {name: jpeg(seed) for seed, name in enumerate(names)}


@pytest.fixture
def archives(tmp_path, monkeypatch, pictures):
    """The three archives in their real format, small, with their md5 sums in torchvision's table."""
    classes = {
        f"{wnid}.tar": tar({name: file for name, file in pictures.items() if name.startswith(wnid)})
        for wnid in NUM_PICTURES
    }
    val = {name: file for name, file in reversed(pictures.items()) if "_val_" in name}  # not in the order of names
    folder, known = tmp_path / "by-hand", {}
    folder.mkdir()
    for (kind, (name, _)), content in zip(imagenet.ARCHIVE_META.items(), (tar(classes), tar(val), kit()), strict=True):
        (folder / name).write_bytes(content)
        known[kind] = (name, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(imagenet, "ARCHIVE_META", known)
    return folder


def entry(folder, **changes):
    by_hand = {"what": "ImageNet", "from": "https://there", "path": str(folder), "files": FILES}
    fields = {"train": {"split": "train"}, "test": {"split": "val"}, "by_hand": by_hand}
    return dict(source="torchvision", dataset="ImageNet") | fields | changes


def test_pictures_are_read_where_they_lie(tmp_path, archives, pictures):
    classes, splits = read(tmp_path, **entry(archives))
    assert classes == [WORDS[wnid] for wnid in sorted(WORDS)]
    assert Counter(labels_of(splits["train"])) == {0: 3, 1: 6, 2: 12}
    for split, archive in (("train", "ILSVRC2012_img_train.tar"), ("test", "ILSVRC2012_img_val.tar")):
        for picture in splits[split]:
            name, _, place = picture.where.partition(" in ")
            assert picture.content == pictures[name] and place == archive
    assert len({picture.where for split in splits.values() for picture in split}) == len(pictures)
    files = sorted(path.name for path in (tmp_path / "scratch").rglob("*") if path.is_file() and not path.is_symlink())
    assert files == ["meta.bin"]


def test_labels_are_torchvisions(tmp_path, archives, pictures):
    _, splits = read(tmp_path, **entry(archives))
    for split, theirs in (("train", "train"), ("test", "val")):
        unpacked = ImageNet(archives, theirs)
        wanted = {path.rsplit("/", 1)[1]: label for path, label in unpacked.samples}
        assert {picture.where.split()[0]: picture.label for picture in splits[split]} == wanted
    assert labels_of(splits["test"]) == [2, 0, 1, 2]


def test_classes_are_evenly_mixed(tmp_path, archives):
    _, splits = read(tmp_path, **entry(archives))
    for third in range(3):
        assert Counter(labels_of(splits["train"][7 * third : 7 * third + 7])) == {0: 1, 1: 2, 2: 4}
    names = [picture.where.split()[0] for picture in splits["train"]]
    for wnid in NUM_PICTURES:
        numbers = [int(name[:-5].split("_")[1]) for name in names if name.startswith(wnid)]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", FILES[:1])
def test_a_damaged_archive_is_not_used(tmp_path, archives, name):
    content = (archives / name).read_bytes()
    (archives / name).write_bytes(content[:-50])
    with pytest.raises(FetchError, match=rf"{name} \(\d+ bytes\) does not have the md5 sum [0-9a-f]+; fetch it again"):
        read(tmp_path, **entry(archives))


@pytest.mark.parametrize("name", FILES[1:])
def test_what_is_missing_is_told(tmp_path, archives, name):
    (archives / name).unlink()
    with pytest.raises(FetchError, match=rf"fetched by hand\n  from: https://there\n(.*\n)  missing there: {name}"):
        read(tmp_path, **entry(archives))
