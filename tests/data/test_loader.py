"""Claims: batches follow the order given and are the same from memory, from disk and from any number of workers; the
global random state is left alone; files are read by position, neither mapped nor left open; a block that comes into use
is read ahead once; memory is used again, but not while somebody looks at it; workers live over epochs and end with
their reader and with their parent; a lost worker, an error in a worker and a lack of shared memory are told."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
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

from pipeline.data.loader import BatchReader, batches, how_read, in_memory, open_split
from pipeline.data.packed import ImageBatch, PackedSplit, read_blocks
from pipeline.data.shards import Shards
from pipeline.runtime.errors import UserError
from pipeline.sources import packing

pytestmark = pytest.mark.seconds


@pytest.fixture
def many(tmp_path, monkeypatch):
    """50 pictures of 24 x 20 pixels in record batches of 3 and several files."""
    monkeypatch.setattr(packing, "RECORD_ROWS", 3)
    monkeypatch.setattr(packing, "SHARD_BYTES", 20_000)
    pack_all(tmp_path, [encode(Image.fromarray(noise(i, 24, 20, 3)), "JPEG" if i % 2 else "PNG") for i in range(50)])
    return tmp_path / "set"


def opened(folder, memory_gb=0):
    return open_split(folder, "train", load_px=32, memory_gb=memory_gb)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_from_memory_and_disk_agree(many, num_workers):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)) % 50
    disk, memory = opened(many), opened(many, 1)
    assert isinstance(disk, PackedSplit) and isinstance(memory, ImageBatch)
    state = torch.get_rng_state()
    wanted = list(batches(memory, order, 7))
    assert [len(batch.labels) for batch in wanted] == [7] * 14 + [2]
    assert same(wanted[0], ImageBatch(*(part[order[:7]] for part in memory)))
    read = BatchReader(disk, num_workers=num_workers)
    assert list(read(order[:0], 7)) == []
    for _ in range(2):
        found = list(read(order, 7))
        assert len(found) == 15 and all(map(same, found, wanted))
    assert len(list(read(order, 7, drop_last=True))) == 14
    assert torch.equal(state, torch.get_rng_state())


def test_memory_limit_counts_pixels_and_photographs_stay_on_the_disk(many, tmp_path):
    num_bytes = 50 * 3 * 24 * 20
    assert isinstance(opened(many, num_bytes / 1e9), ImageBatch)
    assert isinstance(opened(many, (num_bytes - 1) / 1e9), PackedSplit)
    photographs = open_split(many, "train", load_px=23, memory_gb=1)
    assert isinstance(photographs, PackedSplit) and photographs.size_px is None
    assert how_read(photographs).startswith("photographs") and "in memory" in how_read(opened(many, 1))
    with pytest.raises(ValueError, match="say what is cut"):
        next(batches(photographs, torch.arange(2), 2))


def open_handles(folder):
    return [link for link in Path("/proc/self/fd").iterdir() if str(folder) in os.path.realpath(link)]


def test_files_are_read_by_position(many):
    images = opened(many)
    tables = [pa.ipc.open_file(path.read_bytes()).read_all() for path in sorted(many.glob("train-*.arrow"))]
    assert len(tables) > 3
    assert [images.encoded(i) for i in range(50)] == [file for table in tables for file in table["image"].to_pylist()]
    assert images.labels.tolist() == [label for table in tables for label in table["label"].to_pylist()]
    assert np.array_equal(in_memory(images).pixels[7], images[7][0])
    assert str(many) not in Path("/proc/self/maps").read_text()
    assert len(open_handles(many)) == len(tables)
    again = pickle.loads(pickle.dumps(images))  # a worker opens the files for itself
    assert len(open_handles(many)) == len(tables) and again.encoded(49) == images.encoded(49)
    del images, again
    assert open_handles(many) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_a_worker_is_raised_here_in_its_turn(many, num_workers):
    images = opened(many)
    (many / "train-00000.arrow").write_bytes(b"")
    stream = batches(images, torch.arange(50).flip(0), 2, num_workers=num_workers)
    assert next(stream).labels.tolist() == images.labels[[49, 48]].tolist(), "other files are whole"
    with pytest.raises(OSError, match=r"^/.*train-00000.arrow was cut while it was in use") as caught:
        list(stream)
    assert multiprocessing.active_children() == []
    assert "in decode_into" in "".join(caught.value.__notes__), "where in the worker it happened"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_is_used_again_and_never_while_pixels_are_looked_at(many, num_workers, monkeypatch):
    wanted = opened(many, 1).pixels
    read = BatchReader(opened(many), num_workers=num_workers)
    order = torch.arange(50).repeat(2)
    kept = next(read(order, 2)).pixels  # of an epoch that is left before its end
    rows = [batch.pixels[1] for batch in read(order, 2)]
    assert torch.equal(kept, wanted[:2]) and torch.equal(torch.stack(rows), wanted[order[1::2]])
    larger = list(read(order, 60))
    assert torch.equal(torch.cat([batch.pixels for batch in larger]), wanted[order])
    assert torch.equal(kept, wanted[:2])
    del kept, rows, larger
    monkeypatch.setattr(torch.Tensor, "clone", lambda _: pytest.fail("a loop that keeps no batch needs no copy"))
    handles = [len(os.listdir("/proc/self/fd")) for _ in read(order, 2)]
    assert max(handles[10:]) <= max(handles[:10])


def test_too_little_shared_memory_is_told(many):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"too little shared memory for 7 batches.*; lower pretrain\.loader\.num_workers"
        ):
            next(batches(opened(many), torch.arange(50), 2, num_workers=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for rest in Path("/dev/shm").glob(f"torch_{os.getpid()}_*"):  # torch leaves the file that it could not enlarge
            rest.unlink()


def test_workers_live_over_epochs_and_end_with_their_reader(many):
    read = BatchReader(opened(many), num_workers=2)
    next(read(torch.arange(50), 2))  # an epoch that is left before its end
    first = {child.pid for child in multiprocessing.active_children()}
    assert [len(batch.labels) for batch in read(torch.arange(5), 2)] == [2, 2, 1]
    assert {child.pid for child in multiprocessing.active_children()} == first and len(first) == 2
    del read
    assert multiprocessing.active_children() == []
    list(batches(opened(many), torch.arange(50), 2, num_workers=2))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told(many):
    stream = batches(opened(many), torch.arange(50).repeat(400), 2, num_workers=2)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.2)  # elsewhere the program goes on
    with pytest.raises(UserError, match=r"data-loading worker was killed.*lower pretrain\.loader\.num_workers"):
        list(stream)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(many, end):
    program = f"""
import multiprocessing, time, torch
from pipeline.data.loader import batches
from pipeline.data.packed import PackedSplit
stream = batches(PackedSplit({str(many)!r}, "train", load_px=32), torch.arange(50), 2, num_workers=2)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(end)
    assert parent.wait(30) == -end
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
    sizes = read_blocks(many, "train").num_images.tolist()
    assert sizes[:3] == [3, 3, 3]
    order = torch.tensor([0, 3, 1, 4, 6, 2])  # of the third block one image of three
    list(batches(opened(many), order, 2, num_workers=num_workers))
    assert asked == [0, 1]
    asked.clear()
    list(batches(opened(many), torch.randperm(50), 4, num_workers=num_workers))
    assert sorted(asked) == list(range(len(sizes)))
