"""Memory of a process that computes."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Use freed memory again instead of getting cleared pages from the system at every step; torch takes large pages.

    Numbers: reports/LOG.md, 2026-11-30. Call it before torch allocates. Without glibc only the second is asked for.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's own variable
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
