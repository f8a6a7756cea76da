"""Bytecode of the clone's modules: under .scratch/pycache, not beside the code.

DVC hashes the folders of code that a stage depends on. A `__pycache__` in one that lies outside of the DVC project, as
../pipeline/losses does for paper/, is hashed too, since .dvcignore does not reach there: an import would change it.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

CLONE = Path(__file__).parents[2]
CACHE = CLONE / ".scratch/pycache"
FOLDERS = (CLONE / "pipeline", CLONE / "objectives")


class ApartLoader(SourceFileLoader):
    """Loads a module as Python does, with its bytecode under CACHE.

    sys.pycache_prefix, set for the whole process, would move that of every installed library as well: PyTorch and the
    others would be compiled anew, for half a minute, in each clone.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of a module, compiled or read from CACHE."""
        before = sys.pycache_prefix
        sys.pycache_prefix = str(CACHE)
        try:
            return super().get_code(fullname)
        finally:
            sys.pycache_prefix = before


def keep_apart() -> None:
    """Load the modules of FOLDERS that are imported from now on with ApartLoader; a prefix of the user's own holds."""
    if sys.pycache_prefix:
        return
    sys.path_hooks.insert(0, _finder)
    for folder in [folder for folder in sys.path_importer_cache if _is_ours(folder)]:
        del sys.path_importer_cache[folder]


def _finder(folder: str) -> FileFinder:
    if not _is_ours(folder):
        raise ImportError("not for this finder", path=folder)
    return FileFinder(folder, (ApartLoader, SOURCE_SUFFIXES))


def _is_ours(folder: str) -> bool:
    """Whether modules of FOLDERS lie in a folder, or their packages, as those in CLONE do."""
    place = Path(folder)
    return place == CLONE or any(place.is_relative_to(ours) for ours in FOLDERS)
