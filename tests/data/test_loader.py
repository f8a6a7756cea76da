"""Claims: batches follow the order given, are the same from memory, from disk and from loader workers, however long
they are kept, and leave the global random state alone; files are read by position, the same bytes as Arrow reads, and
neither mapped nor left open; a block that comes into use is read ahead once; workers end with the loop, with an error
of theirs, and with their parent, however they were started."""

from __future__ import annotations

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
from packed_pictures import encode, noise, pack_all
from PIL import Image

from pipeline.data.loader import batches, in_memory, open_split
from pipeline.data.packed import ImageBatch, PackedSplit, read_blocks
from pipeline.data.shards import Shards
from pipeline.runtime.errors import UserError
from pipeline.sources import packing


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
    assert isinstance(disk, PackedSplit) and isinstance(memory, ImageBatch)
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
    assert isinstance(open_split(unequal, "train", load_px=16, memory_gb=(num_bytes - 1) / 1e9), PackedSplit)


def test_pickles_for_workers(unequal):
    images = PackedSplit(unequal, "train", load_px=16)
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
    images = PackedSplit(many, "train", load_px=16)
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
    images = PackedSplit(many, "train", load_px=16)
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
    for i, (ours, theirs) in enumerate(zip(kept, wanted, strict=True)):  # another loop left them alone
        assert torch.equal(ours, theirs.pixels[3:]) if i % 3 else same(ours, theirs)


def test_batches_that_are_let_go_take_no_new_memory(many):
    images = PackedSplit(many, "train", load_px=16)
    order = torch.arange(50).repeat(4)
    places = {batch.pixels.data_ptr() for batch in batches(images, order, 5, num_workers=2)}
    assert len(places) <= 6


def test_workers_end_with_the_loop(many):
    images = PackedSplit(many, "train", load_px=16)
    stream = batches(images, torch.arange(50), 2, num_workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told(many):
    order = torch.arange(50).repeat(400)  # the other worker could finish a short one before the loss is noticed
    stream = batches(PackedSplit(many, "train", load_px=16), order, 2, num_workers=2)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"data-loading worker was killed.*lower pretrain\.loader\.num_workers"):
        list(stream)


def test_an_error_in_a_worker_is_raised_here_in_its_turn(many):
    images = PackedSplit(many, "train", load_px=16)
    (many / "train-00000.arrow").write_bytes(b"")
    stream = batches(images, torch.arange(50).flip(0), 2, num_workers=2)
    assert next(stream).labels.tolist() == images.labels[[49, 48]].tolist(), "other files are whole"
    with pytest.raises(OSError, match="was cut while it was in use") as caught:
        list(stream)
    assert "in decode_into" in str(caught.value.__cause__), "where in the worker it happened"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_end_with_their_parent(many, start):
    program = f"""
import multiprocessing, time, torch
from pipeline.data.loader import batches
from pipeline.data.packed import PackedSplit
multiprocessing.set_start_method({start!r})
stream = batches(PackedSplit({str(many)!r}, "train", load_px=16), torch.arange(50), 2, num_workers=2)
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


@pytest.mark.slow
def test_a_program_may_end_within_the_loop(many):
    program = f"""
import torch
from pipeline.data.loader import batches
from pipeline.data.packed import PackedSplit
stream = batches(PackedSplit({str(many)!r}, "train", load_px=16), torch.arange(50), 2, num_workers=2)
for batch in stream:
    raise ValueError("enough")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stderr.endswith("ValueError: enough\n"), ended.stderr


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
    images = PackedSplit(many, "train", load_px=16)
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
    shards = PackedSplit(many, "train", load_px=16).shards
    for block in range(len(shards.blocks.num_images)):
        shards.read_ahead(block)
    index = 0
    for (path, (start, length, advice)), num in zip(calls, shards.blocks.num_images.tolist(), strict=True):
        content = Path(path).read_bytes()[start : start + length]
        assert advice == os.POSIX_FADV_WILLNEED and content.startswith(shards.read([index])[0])
        assert content.endswith(shards.read([index + num - 1])[0])
        index += num
