"""Claims about the order of an epoch: a set that fits into the window is permuted by the very bits of torch.randperm; a
larger one by a permutation whose open blocks never hold more bytes than the window and one block; a batch is mixed from
as many blocks as an even draw from the window would give; the generator alone decides; the same data in memory and on
the disk get the same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from packed_pictures import pack_noise

from pipeline.core.seeds import generator
from pipeline.data.packed import PackedSplit, read_blocks
from pipeline.data.shards import Blocks
from pipeline.data.shuffle import shuffled
from pipeline.sources import packing

MB = 10**6


def blocks(num: int = 200, seed: int = 0) -> Blocks:
    """Uneven blocks of 1 to 200 images and 10 to 20 MB."""
    draws = np.random.default_rng(seed)
    sizes = draws.integers(1, 200, num), draws.integers(10 * MB, 20 * MB, num)
    return Blocks(*(torch.from_numpy(size) for size in sizes))


def order_of(given: Blocks, window_gb: float, epoch: int = 0) -> torch.Tensor:
    num_images = int(given.num_images.sum())
    return shuffled(num_images, blocks=given, window_gb=window_gb, generator=generator(3, "order", epoch))


def block_of(given: Blocks, order: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(given.num_images)).repeat_interleave(given.num_images)[order]


def total_gb(given: Blocks) -> float:
    return int(given.num_bytes.sum()) / 1e9


def test_a_set_within_the_window_is_permuted_as_ever():
    given = blocks()
    wanted = torch.randperm(int(given.num_images.sum()), generator=generator(3, "order", 0))
    assert torch.equal(order_of(given, total_gb(given)), wanted)
    small = Blocks(torch.tensor([7]), torch.tensor([100]))
    # Written down: another order would change every result that is published for small sets.
    found = shuffled(7, blocks=small, window_gb=0.1, generator=torch.Generator().manual_seed(0))
    assert found.tolist() == [4, 0, 5, 3, 2, 6, 1]
    assert not torch.equal(order_of(given, total_gb(given) - 1e-9), wanted)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("window_gb", [0.001, 0.5])
def test_a_larger_set_keeps_few_blocks_open(seed, window_gb):
    given = blocks(seed=seed)
    order = order_of(given, window_gb)
    assert torch.equal(order.sort().values, torch.arange(len(order)))
    place = block_of(given, order).numpy()
    opened, first = np.unique(place, return_index=True)
    last = len(place) - 1 - np.unique(place[::-1], return_index=True)[1]
    change = np.zeros(len(place) + 1)
    np.add.at(change, first, given.num_bytes.numpy()[opened])
    np.add.at(change, last + 1, -given.num_bytes.numpy()[opened])
    assert change.cumsum().max() <= window_gb * 1e9 + int(given.num_bytes.max())


def test_a_batch_is_mixed_from_a_whole_window():
    """Equal blocks, a window of 40: a batch of 64 has as many of them as 64 even draws, up to chance."""
    given = Blocks(torch.full((400,), 50), torch.full((400,), 16 * MB))
    place = block_of(given, order_of(given, 40 * 0.016))
    counts = torch.tensor([len(batch.unique()) for batch in place.split(64)]).double()
    even = 40 * (1 - (1 - 1 / 40) ** 64)
    assert counts[40:-40].mean() == pytest.approx(even, rel=0.05)
    assert counts[0] >= 8 and counts[-1] >= 4  # a window is not full there


def test_the_generator_alone_decides():
    given = blocks()
    torch.manual_seed(1)
    first = order_of(given, 0.2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(order_of(given, 0.2), first) and not torch.equal(order_of(given, 0.2, 1), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_of_a_packed_set(tmp_path, monkeypatch):
    """Memory or disk: the order knows the packed files alone."""
    monkeypatch.setattr(packing, "RECORD_ROWS", 3)
    monkeypatch.setattr(packing, "SHARD_BYTES", 500)
    pack_noise(tmp_path / "set", 25, 6, 6)
    given, images = read_blocks(tmp_path / "set", "train"), PackedSplit(tmp_path / "set", "train", load_px=8)
    assert int(given.num_images.sum()) == 25 and given.num_images.max() == 3 and len(given.num_images) > 8
    sizes = [len(images.encoded(index)) for index in range(25)]
    wanted = [sum(part) for part in np.split(sizes, given.num_images.cumsum(0)[:-1])]
    assert given.num_bytes.tolist() == wanted
    with pytest.raises(AssertionError, match="24 images, blocks of 25"):
        shuffled(24, blocks=given, window_gb=1, generator=torch.Generator())
