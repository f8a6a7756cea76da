"""Claims: what is packed is what is read, pixel for pixel; the bytes of a pack depend on the pictures alone; every mode
of picture (palette, transparency, 16 bits, CMYK, EXIF rotation, animation) becomes what a viewer would show; plain
JPEG and PNG files are kept byte for byte; a bad picture is named with split, index and file; a folder appears only
when it is complete; canvas and aspect keep the original geometry; batches follow the order given, are the same from
memory, from disk and from loader workers, however long they are kept, and leave the global random state alone; files
are read by position, the same bytes as Arrow reads, and neither mapped nor left open; a block that comes into use is
read ahead once; workers end with the loop, with an error of theirs, and with their parent."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import packing
from pipeline.datasets import batches, in_memory, open_split
from pipeline.encoded import EncodedImages, ImageBatch, read_blocks, read_meta
from pipeline.errors import UserError
from pipeline.packing import PackError, pack
from pipeline.pictures import Picture, to_grey_or_rgb
from pipeline.shards import Shards

CLASSES = ["cat", "dög"]


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_splits(contents):
    return {
        split: [Picture(content, i % 2, f"{split}{i}") for i, content in enumerate(contents)]
        for split in ("train", "test")
    }


def pack_all(tmp_path, contents, name="set"):
    return pack(tmp_path / name, name, {"source": "folder"}, CLASSES, two_splits(contents))


def one(tmp_path, content):
    """Pack a picture and read it back at its own size: (H, W) or (H, W, 3)."""
    meta = pack_all(tmp_path, [content, content])
    images = EncodedImages(tmp_path / "set", "train", load_px=4096)
    return images[0][0].permute(1, 2, 0).squeeze(-1).numpy(), meta


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
def test_arrays_come_back_exactly(tmp_path, shape):
    arrays = [noise(i, *shape) for i in range(5)]
    meta = pack_all(tmp_path, arrays)
    images = EncodedImages(tmp_path / "set", "test", load_px=32)
    assert images.channels == meta["channels"] == (3 if shape[2:] == (3,) else 1)
    assert images.size_px == (9, 7) and len(images) == 5 and images.classes == CLASSES
    for i, array in enumerate(arrays):
        pixels, aspect, label = images[i]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), array.reshape(9, 7, -1))
        assert pixels.dtype == torch.uint8 and aspect == 1 and label == i % 2


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
    assert len(EncodedImages(tmp_path / "set", "train", load_px=8)) == 3


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
    images = EncodedImages(tmp_path / "set", "train", load_px=16)
    assert [images.encoded(i) for i in range(5)] == [*files, files[0]]
    assert meta["channels"] == 3 and meta["changes"] == {}


def test_palette(tmp_path):
    source = Image.fromarray(noise(1, 8, 8, 3)).quantize(16)
    got, meta = one(tmp_path, encode(source))
    assert np.array_equal(got, np.asarray(source.convert("RGB"))) and meta["changes"] == {"P to RGB": 4}


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


def test_half_transparency(tmp_path):
    got, _ = one(tmp_path, encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert (got == 127).all()


def test_sixteen_bits(tmp_path):
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    got, meta = one(tmp_path, encode(Image.fromarray(values)))
    assert np.array_equal(got, np.rint(values / 257).astype(np.uint8))
    assert meta["channels"] == 1 and meta["changes"] == {"16 bits to 8": 4}


def test_cmyk_jpeg(tmp_path):
    content = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    got, meta = one(tmp_path, content)
    assert np.abs(got.astype(int) - [255, 0, 0]).max() < 12 and meta["changes"] == {"CMYK to RGB": 4}


def test_one_bit(tmp_path):
    got, _ = one(tmp_path, encode(Image.fromarray(noise(0, 8, 8) > 127)))
    assert np.array_equal(got, np.where(noise(0, 8, 8) > 127, 255, 0))


@pytest.mark.parametrize("orientation, turned", [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.rot90(noise(0, 6, 10, 3), turned)
    got, meta = one(tmp_path, encode(Image.fromarray(noise(0, 6, 10, 3)), "PNG", exif=exif))
    assert np.array_equal(got, upright) and meta["changes"] == {"turned as its EXIF says": 4}


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    got, meta = one(tmp_path, encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (got == [255, 0, 0]).all() and meta["changes"]["first frame of an animation"] == 4


def test_modes_without_a_white_are_refused():
    with pytest.raises(ValueError, match="32 bits"):
        to_grey_or_rgb(Image.fromarray(np.zeros((4, 4), np.float32)))


def truncated(kind):
    content = encode(Image.fromarray(noise(0, 64, 64, 3)), kind)
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "content, reason",
    [
        (truncated("JPEG"), "truncated"),
        (truncated("PNG"), "truncated|broken"),
        (b"", "zero bytes"),
        (b"hello", "cannot identify"),
        (np.zeros((4, 4), np.float32), "must be uint8"),
    ],
    ids=["JPEG", "PNG", "empty", "text", "float"],
)
def test_bad_pictures_are_named(tmp_path, content, reason):
    splits = two_splits([noise(i, 4, 4) for i in range(4)])
    splits["test"].insert(3, Picture(content, 0, "cats/no 7.png"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    with pytest.raises(PackError, match=rf"'set': split 'test', picture 3 \(cats/no 7.png\).*({reason}).*repair"):
        pack(tmp_path / "set", "set", {}, CLASSES, splits)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]  # what was there stays, nothing half made is left


@pytest.mark.parametrize("labels", [{"train": [0, 0], "test": [0, 1]}, {"train": [0, 1], "test": [1]}, {"test": []}])
def test_every_class_in_every_split(tmp_path, labels):
    labels = {"train": [0, 1], "test": [0, 1]} | labels
    splits = {s: [Picture(noise(0, 4, 4), label, "x") for label in values] for s, values in labels.items()}
    with pytest.raises(PackError, match=r"has no picture of [12] of 2 classes"):
        pack(tmp_path / "set", "set", {}, CLASSES, splits)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(PackError, match="at least 2 classes"):
        pack(tmp_path / "set", "set", {}, ["cat"], {})


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing._Shard, "write", full)
    with pytest.raises(PackError, match="the disk is full at"):
        pack_all(tmp_path, [noise(i, 4, 4) for i in range(2)])
    assert list(tmp_path.iterdir()) == []


def test_incomplete_folders_name_the_remedy(tmp_path):
    remedy = r"dvc repro data/dvc.yaml:download@set`"
    with pytest.raises(FileNotFoundError, match=remedy):
        EncodedImages(tmp_path / "set", "train", load_px=8)
    pack_all(tmp_path, [noise(i, 4, 4) for i in range(2)])
    (tmp_path / "set" / "test-00000.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=remedy):
        EncodedImages(tmp_path / "set", "train", load_px=8)


def test_wrong_arguments(tmp_path):
    pack_all(tmp_path, [noise(i, 4, 4) for i in range(2)])
    with pytest.raises(ValueError, match="one of train, test, got 'val'"):
        EncodedImages(tmp_path / "set", "val", load_px=8)
    with pytest.raises(ValueError, match="load_px must be >= 1"):
        EncodedImages(tmp_path / "set", "train", load_px=0)
    with pytest.raises(IndexError):
        EncodedImages(tmp_path / "set", "train", load_px=8)[2]


def disc(width, height):
    image = Image.new("RGB", (width, height), "black")
    radius = min(width, height) // 4
    box = [width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius]
    ImageDraw.Draw(image).ellipse(box, fill="white")
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_aspect_restores_the_geometry(tmp_path, kind):
    """A round disc is an ellipse on the canvas; its width times `aspect` over its height is 1 again."""
    sizes = [(200, 100), (90, 270), (1600, 800)]
    pack_all(tmp_path, [encode(disc(*size), kind) for size in sizes])
    images = EncodedImages(tmp_path / "set", "train", load_px=64)
    for i, (width, height) in enumerate(sizes):
        pixels, aspect, _ = images[i]
        assert pixels.shape == (3, 64, 64) and aspect == pytest.approx(width / height)
        white = pixels[0] > 127
        columns, rows = white.any(0).sum().item(), white.any(1).sum().item()
        assert columns * aspect / rows == pytest.approx(1, rel=0.15)
        exact = disc(width, height).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(exact)).mean() < 3


def test_larger_than_load_px_is_resized(tmp_path):
    pack_all(tmp_path, [noise(i, 40, 20) for i in range(2)])
    assert EncodedImages(tmp_path / "set", "train", load_px=40).size_px == (40, 20)
    images = EncodedImages(tmp_path / "set", "train", load_px=39)
    assert images.size_px == (39, 39) and images[0][1] == pytest.approx(0.5)


@pytest.fixture
def unequal(tmp_path):
    contents = [encode(Image.fromarray(noise(i, 10 + i, 20, 3)), "JPEG" if i % 2 else "PNG") for i in range(11)]
    pack_all(tmp_path, contents)
    return tmp_path / "set"


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_batches_from_memory_and_disk_agree(unequal):
    order = torch.tensor([7, 3, 3, 10, 0, 1, 9])
    disk = open_split(unequal, "train", load_px=16, memory_gb=0)
    memory = open_split(unequal, "train", load_px=16, memory_gb=1)
    assert isinstance(disk, EncodedImages) and isinstance(memory, ImageBatch)
    state = torch.get_rng_state()
    from_memory = list(batches(memory, order, 3))
    assert [b.labels.tolist() for b in from_memory] == [[1, 1, 1], [0, 0, 1], [1]]
    assert same(from_memory[0], ImageBatch(*(part[order[:3]] for part in memory)))
    assert from_memory[0].aspect.dtype == torch.float32 and from_memory[0].labels.dtype == torch.int64
    for num_workers in (0, 2):
        from_disk = list(batches(disk, order, 3, num_workers=num_workers))
        assert len(from_disk) == 3 and all(map(same, from_memory, from_disk))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("memory_gb", [0, 1])
def test_drop_last(unequal, memory_gb):
    images = open_split(unequal, "test", load_px=16, memory_gb=memory_gb)
    assert [len(b.labels) for b in batches(images, torch.arange(11), 4, drop_last=True)] == [4, 4]
    assert [len(b.labels) for b in batches(images, torch.arange(11), 4)] == [4, 4, 3]
    for num_workers in (0, 2):
        assert list(batches(images, torch.arange(0), 4, num_workers=num_workers)) == []


def test_memory_limit_counts_pixels(unequal):
    num_bytes = 11 * 3 * 16 * 16
    assert isinstance(open_split(unequal, "train", load_px=16, memory_gb=num_bytes / 1e9), ImageBatch)
    assert isinstance(open_split(unequal, "train", load_px=16, memory_gb=(num_bytes - 1) / 1e9), EncodedImages)


def test_pickles_for_workers(unequal):
    images = EncodedImages(unequal, "train", load_px=16)
    images.encoded(0)
    again = pickle.loads(pickle.dumps(images))
    assert len(pickle.dumps(images)) < 5000  # the files are opened anew, not carried
    assert same(in_memory(again), in_memory(images))


def test_many_record_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "RECORD_ROWS", 3)
    monkeypatch.setattr(packing, "SHARD_BYTES", 500)
    arrays = [noise(i, 6, 6) for i in range(25)]
    pack_all(tmp_path, arrays)
    assert len(list((tmp_path / "set").glob("train-*.arrow"))) > 2
    memory = open_split(tmp_path / "set", "train", load_px=8, memory_gb=1)
    assert np.array_equal(memory.pixels[:, 0].numpy(), np.stack(arrays))


@pytest.fixture
def many(tmp_path, monkeypatch):
    """50 pictures of 5 to 54 pixels side in record batches of 3 and several files."""
    monkeypatch.setattr(packing, "RECORD_ROWS", 3)
    monkeypatch.setattr(packing, "SHARD_BYTES", 20_000)
    pack_all(tmp_path, [encode(Image.fromarray(noise(i, 5 + i, 5 + i, 3))) for i in range(50)])
    return tmp_path / "set"


def open_handles(folder):
    return [link for link in Path("/proc/self/fd").iterdir() if str(folder) in os.path.realpath(link)]


def test_files_are_read_by_position(many):
    images = EncodedImages(many, "train", load_px=16)
    tables = [pa.ipc.open_file(path.read_bytes()).read_all() for path in sorted(many.glob("train-*.arrow"))]
    assert len(tables) > 3
    assert [images.encoded(i) for i in range(50)] == [file for table in tables for file in table["image"].to_pylist()]
    assert images.labels.tolist() == [label for table in tables for label in table["label"].to_pylist()]
    assert str(many) not in Path("/proc/self/maps").read_text()
    assert len(open_handles(many)) == len(tables)
    again = pickle.loads(pickle.dumps(images))
    assert len(open_handles(many)) == len(tables) and again.encoded(49) == images.encoded(49)
    del images, again
    assert open_handles(many) == []


def test_a_file_that_was_cut_in_use_is_named(many):
    images = EncodedImages(many, "train", load_px=16)
    images.encoded(0)
    with (many / "train-00000.arrow").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(OSError, match=r"train-00000.arrow was cut while it was in use"):
        images.encoded(0)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_may_be_kept(many, num_workers):
    """Workers write into the same memory again; not while somebody holds a batch or a view of it."""
    disk, memory = (open_split(many, "train", load_px=16, memory_gb=gb) for gb in (0, 1))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0)) % 50
    wanted = list(batches(memory, order, 7))
    kept = [
        batch.pixels[3:] if i % 3 else batch for i, batch in enumerate(batches(disk, order, 7, num_workers=num_workers))
    ]
    for i, (ours, theirs) in enumerate(zip(kept, wanted, strict=True)):
        assert torch.equal(ours, theirs.pixels[3:]) if i % 3 else same(ours, theirs)
    for ours, theirs in zip(batches(disk, order, 7, num_workers=num_workers), wanted, strict=True):
        assert same(ours, theirs)


def test_batches_that_are_let_go_take_no_new_memory(many):
    images = EncodedImages(many, "train", load_px=16)
    order = torch.arange(50).repeat(4)
    places = {batch.pixels.data_ptr() for batch in batches(images, order, 5, num_workers=2)}
    assert len(places) <= 6


def test_workers_end_with_the_loop(many):
    images = EncodedImages(many, "train", load_px=16)
    stream = batches(images, torch.arange(50), 2, num_workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told(many):
    order = torch.arange(50).repeat(400)  # the other worker could finish a short one before the loss is noticed
    stream = batches(EncodedImages(many, "train", load_px=16), order, 2, num_workers=2)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"decodes images was killed.*lower pretrain\.loader\.num_workers"):
        list(stream)


def test_an_error_in_a_worker_is_raised_here(many):
    images = EncodedImages(many, "train", load_px=16)
    (many / "train-00000.arrow").write_bytes(b"")
    with pytest.raises(OSError, match="was cut while it was in use"):
        list(batches(images, torch.arange(50), 2, num_workers=2))


@pytest.mark.slow
def test_workers_end_with_their_parent(many):
    program = f"""
import multiprocessing, time, torch
from pipeline.datasets import batches
from pipeline.encoded import EncodedImages
stream = batches(EncodedImages({str(many)!r}, "train", load_px=16), torch.arange(50), 2, num_workers=2)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("num_workers", [0, 2])
def test_blocks_are_read_ahead_once(many, monkeypatch, num_workers):
    """A block of which most images are wanted is asked for with the batch that needs it first; others never."""
    asked = []
    monkeypatch.setattr(Shards, "read_ahead", lambda _, block: asked.append(block))
    images = EncodedImages(many, "train", load_px=16)
    sizes = read_blocks(many, "train").num_images.tolist()
    assert sizes[:3] == [3, 3, 3]
    order = torch.tensor([0, 3, 1, 4, 6, 2])  # of the third block one image of three
    list(batches(images, order, 2, num_workers=num_workers))
    assert asked == [0, 1]
    asked.clear()
    list(batches(images, torch.randperm(50), 4, num_workers=num_workers))
    assert sorted(asked) == list(range(len(sizes)))


def test_what_is_read_ahead_is_the_block(many, monkeypatch):
    calls = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda handle, *span: calls.append((os.readlink(f"/proc/self/fd/{handle}"), span))
    )
    shards = EncodedImages(many, "train", load_px=16).shards
    for block in range(len(shards.blocks.num_images)):
        shards.read_ahead(block)
    index = 0
    for (path, (start, length, advice)), num in zip(calls, shards.blocks.num_images.tolist(), strict=True):
        content = Path(path).read_bytes()[start : start + length]
        assert advice == os.POSIX_FADV_WILLNEED and content.startswith(shards.read(index))
        assert content.endswith(shards.read(index + num - 1))
        index += num
