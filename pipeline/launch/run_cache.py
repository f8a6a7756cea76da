"""DVC's command line, with a run cache of which only what is missing travels: `python -m pipeline.launch.run_cache`.

DVC copies every entry at each push and pull, on an object store a request each, so that a cell would pay for all cells
that were done before it. The results of an entry are sent before it: who finds the entry finds them too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dvc.cli import main
from dvc.exceptions import UploadError
from dvc.stage import cache
from dvc_objects.fs.generic import copy

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB

FOLDER = "runs"
Entry = tuple[str, str]  # hashes: of what a stage is and reads, of that with what it made


class RunCache(cache.StageCache):
    """DVC's run cache, https://dvc.org/doc/user-guide/pipelines/run-cache: what stages made, by what they read."""

    def transfer(self, from_odb: HashFileDB, to_odb: HashFileDB, force: bool = True) -> list[Entry]:
        """Copy the entries that `to_odb` lacks; none whose results are gone from this machine is sent.

        Args:
            from_odb: the cache of this machine, or the default remote.
            to_odb: the other one.
            force: as in DVC; without effect, for the name of an entry says what it holds.

        Returns:
            those that were copied.

        Raises:
            UploadError: some of their results could not be sent; then no entry was.
        """
        missing = sorted(_entries(from_odb) - _entries(to_odb))
        if from_odb is self.repo.cache.legacy:
            missing = [entry for entry in missing if self._is_whole(entry)]
            self._send_results(missing)
        if missing:
            copy(from_odb.fs, _paths(from_odb, missing), to_odb.fs, _paths(to_odb, missing))
        return missing

    def _is_whole(self, entry: Entry) -> bool:
        found = self._load_cache(*entry)
        return found is not None and self._create_stage(found).outs_cached()

    def _send_results(self, entries: list[Entry]) -> None:
        for results in self.get_used_objs(entries).values():
            if failed := self.repo.cloud.push(results).failed:
                raise UploadError(len(failed))


def _entries(odb: HashFileDB) -> set[Entry]:
    folder = odb.fs.join(odb.path, FOLDER)
    return {odb.fs.parts(path)[-2:] for path in odb.fs.find(folder)} if odb.fs.exists(folder) else set()


def _paths(odb: HashFileDB, entries: list[Entry]) -> list[str]:
    return [odb.fs.join(odb.path, FOLDER, key[:2], key, value) for key, value in entries]


if __name__ == "__main__":
    cache.StageCache = RunCache
    sys.exit(main())
