"""Claims about what a run draws, where and how fast it learns:

1. The learning rate rises linearly to its peak and falls along a cosine to the last fraction.
2. A seed depends on run, purpose and index alone, on every machine.
3. Each process has its own GPU (further cases of devices: tests/graph/test_cases_machine.py).
"""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from pipeline.core.distributed.devices import choose_device
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import derive_seed
from pipeline.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("step", "num_steps", "num_warmup_steps", "final_frac", "factor"),
    [
        (0, 100, 9, 0.001, 0.1),
        (8, 100, 9, 0.001, 0.9),
        (9, 100, 9, 0.001, 1.0),
        (99, 100, 9, 0.001, 0.001),
        (54, 100, 9, 0.001, (1 + 0.001) / 2),
        (0, 11, 0, 0.5, 1.0),
        (10, 11, 0, 0.5, 0.5),
        (10, 41, 0, 0.0, (1 + math.cos(math.pi / 4)) / 2),
        (0, 1, 0, 0.1, 1.0),
    ],
)
def test_learning_rate_has_its_closed_form(step, num_steps, num_warmup_steps, final_frac, factor):
    found = lr_factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps, final_frac=final_frac)
    assert found == pytest.approx(factor, abs=1e-12)


def test_derived_seeds_are_the_same_everywhere_and_differ_by_purpose():
    seeds = [derive_seed(*draw) for draw in [(0, "views", 0), (1, "views", 0), (0, "order", 0), (0, "views", 1)]]
    assert seeds[0] == int(hashlib.sha256(b"0/views/0").hexdigest()[:16], 16) // 2
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**63 for seed in seeds)


def test_every_rank_has_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1])
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    told = {"WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert choose_device("auto") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"pretrain.layout.processes must be <= the 2 GPUs .* got process 3; lower it"):
        choose_device("cuda")
