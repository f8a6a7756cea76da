"""Every random draw comes from (seed, what it is for, step), so nothing about a generator has to be stored."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit seed that depends on its arguments alone, equal on every machine and version.

    Args:
        seed: the run's seed.
        purpose: what is drawn, e.g. "views"; different purposes are independent.
        index: step or epoch.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, index: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`, seeded with `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, index))
