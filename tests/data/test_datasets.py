"""Claims: what is packed is what is read, pixel for pixel; the bytes of a pack depend on the pictures alone; pictures
with transparency, 16 bits and EXIF rotation become what a viewer would show (other modes:
tests/graph/test_bad_inputs.py); plain JPEG and PNG files are kept byte for byte; a bad picture is named with split,
index and file; a folder appears only when it is complete; pictures of one size are read whole, with the pixels of
Pillow."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from packed_pictures import CLASSES, encode, noise, pack_all, two_splits
from PIL import Image

from pipeline.data.packed import PackedSplit, read_meta
from pipeline.sources import packing
from pipeline.sources.images import Picture, prepare
from pipeline.sources.packing import PackError, pack


def one(tmp_path, content):
    """Pack a picture and read it back at its own size: (H, W) or (H, W, 3). Others keep it from being one colour."""
    shown = prepare(Picture(content, 0, "x"))
    meta = pack_all(tmp_path, [content, content, *(noise(i, shown.height, shown.width) for i in range(3))])
    images = PackedSplit(tmp_path / "set", "train", load_px=4096)
    return images[0][0].permute(1, 2, 0).squeeze(-1).numpy(), meta


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
def test_arrays_come_back_exactly(tmp_path, shape):
    arrays = [noise(i, *shape) for i in range(5)]
    meta = pack_all(tmp_path, arrays)
    images = PackedSplit(tmp_path / "set", "test", load_px=32)
    assert images.channels == meta["channels"] == (3 if shape[2:] == (3,) else 1)
    assert images.size_px == (9, 7) and len(images) == 5 and images.classes == CLASSES
    for i, array in enumerate(arrays):
        pixels, label = images[i]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), array.reshape(9, 7, -1))
        assert pixels.dtype == torch.uint8 and label == i % 2


def test_meta(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    splits = {
        "train": [Picture(noise(i, 4 + i, 8), i % 2, "x") for i in range(3)],
        "test": [Picture(noise(i, 6, 8 + i), i % 2, "x") for i in (2, 7)],  # the first is also a training picture
    }
    splits["test"][0] = splits["train"][2]
    meta = pack(tmp_path / "set", "set", {"source": "sklearn"}, CLASSES, iter_all(splits), origin="here")
    assert (
        meta == json.loads((tmp_path / "set" / "meta.json").read_text(encoding="utf-8")) == read_meta(tmp_path / "set")
    )
    assert meta["splits"]["train"]["per_class"] == [2, 1] and meta["splits"]["test"]["num_images"] == 2
    assert meta["width_px"] == [8, 15] and meta["height_px"] == [4, 6]
    assert meta["num_test_images_in_train"] == 1
    assert (meta["name"], meta["source"], meta["origin"]) == ("set", {"source": "sklearn"}, "here")
    files = meta["splits"]["train"]["files"]
    assert [f["name"] for f in files] == [f"train-0000{i}.arrow" for i in range(3)]
    for file in files:
        assert hashlib.sha256((tmp_path / "set" / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    assert len(PackedSplit(tmp_path / "set", "train", load_px=8)) == 3


def iter_all(splits):
    return {split: iter(pictures) for split, pictures in splits.items()}


def test_same_pictures_same_bytes(tmp_path):
    contents = [noise(i, 20, 30, 3) for i in range(40)]
    for name in ("a", "b"):
        pack(tmp_path / name, "same", {}, CLASSES, iter_all(two_splits(contents)))
    for file in sorted(p.name for p in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_plain_files_are_kept_byte_for_byte(tmp_path):
    photo = Image.fromarray(noise(0, 16, 16, 3))
    files = [encode(photo, "JPEG"), encode(photo.convert("L"), "JPEG"), encode(photo), encode(photo.convert("L"))]
    path = tmp_path / "ä picture.jpg"
    path.write_bytes(files[0])
    meta = pack_all(tmp_path, [*files, path])
    images = PackedSplit(tmp_path / "set", "train", load_px=16)
    assert [images.encoded(i) for i in range(5)] == [*files, files[0]]
    assert meta["channels"] == 3 and meta["changes"] == {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path, mode):
    if mode == "P":
        source = Image.new("P", (8, 8), 0)
        source.putpalette([200, 0, 0, 0, 200, 0])
        content = encode(source, transparency=0)
    else:
        content = encode(Image.new(mode, (8, 8), (200, 0, 0, 0) if mode == "RGBA" else (200, 0)))
    got, meta = one(tmp_path, content)
    assert (got == 255).all() and meta["changes"] == {"transparency put on white": 4}
    assert meta["channels"] == (1 if mode == "LA" else 3)


def test_sixteen_bits(tmp_path):
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    got, meta = one(tmp_path, encode(Image.fromarray(values)))
    assert np.array_equal(got, np.rint(values / 257).astype(np.uint8))
    assert meta["channels"] == 1 and meta["changes"] == {"16 bits to 8": 4}


@pytest.mark.parametrize("orientation, turned", [(6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.rot90(noise(0, 6, 10, 3), turned)
    got, meta = one(tmp_path, encode(Image.fromarray(noise(0, 6, 10, 3)), "PNG", exif=exif))
    assert np.array_equal(got, upright) and meta["changes"] == {"turned as its EXIF says": 4}


def test_a_bad_picture_is_named_and_nothing_is_left(tmp_path):
    splits = two_splits([noise(i, 4, 4) for i in range(4)])
    splits["test"].insert(3, Picture(b"", 0, "cats/no 7.png"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    with pytest.raises(PackError, match=r"'set': split 'test', picture 3 \(cats/no 7.png\).*zero bytes.*repair"):
        pack(tmp_path / "set", "set", {}, CLASSES, splits)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]  # what was there stays, nothing half made is left


def test_incomplete_folders_name_the_remedy(tmp_path):
    remedy = r"dvc repro --force download@set`"
    with pytest.raises(FileNotFoundError, match=remedy):
        PackedSplit(tmp_path / "set", "train", load_px=8)
    pack_all(tmp_path, [noise(i, 4, 4) for i in range(2)])
    (tmp_path / "set" / "test-00000.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=remedy):
        PackedSplit(tmp_path / "set", "train", load_px=8)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_size_up_to_load_px_is_read_whole(tmp_path, mode):
    pack_all(tmp_path, [encode(Image.fromarray(noise(i, 40, 20, 3)).convert(mode), "JPEG") for i in range(2)])
    images = PackedSplit(tmp_path / "set", "train", load_px=40)
    assert images.size_px == (40, 20) and images.channels == len(mode)
    wanted = np.asarray(Image.open(io.BytesIO(images.encoded(1))))
    assert np.array_equal(images[1][0].permute(1, 2, 0).squeeze(-1), wanted)
    assert PackedSplit(tmp_path / "set", "train", load_px=39).size_px is None
    pack_all(tmp_path, [noise(i, 40, 20 + i) for i in range(2)], name="unequal")
    assert PackedSplit(tmp_path / "unequal", "train", load_px=64).size_px is None
