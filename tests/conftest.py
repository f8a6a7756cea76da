"""One thread, here and in the stages that tests start: on tiny tensors, threads that wait for each other cost more than
they bring, and equal thread counts give equal bits."""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch loads MKL: set_num_threads speaks to the calling thread alone

import torch

sys.dont_write_bytecode = True  # as in stages/__init__.py
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list) -> None:
    """Files with slow tests first: no process is left with the longest of them when the others have nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
