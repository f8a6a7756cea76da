"""An object store on loopback: S3 as moto's server plays it, https://docs.getmoto.org."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

BUCKET = "results"


class ObjectStore:
    """A bucket, the settings of a DVC remote in it, and what the server was asked."""

    def __init__(self, url: str, log: Path) -> None:
        """Make the bucket."""
        self.url, self._log = url, log
        requests.put(f"{url}/{BUCKET}", timeout=30).raise_for_status()

    def add_to(self, place) -> None:
        """Make it the default remote of a repository: of a SmallPipeline or a Workspace."""
        place.run("dvc", "remote", "add", "--default", "shared", f"s3://{BUCKET}/dvc")
        settings = {"endpointurl": self.url, "region": "us-east-1", "access_key_id": "x", "secret_access_key": "x"}
        for name, value in settings.items():
            place.run("dvc", "remote", "modify", "shared", name, value)

    def requests(self) -> list[str]:
        """Return what was asked so far, as `GET /results/dvc/runs/...`."""
        return re.findall(r'"((?:GET|HEAD|PUT|POST|DELETE) \S+)', self._log.read_text(encoding="utf-8"))


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Serve until the block ends."""
    log = folder / "requests.log"
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "--port", "0"], stdout=file, stderr=file)
        try:
            yield ObjectStore(_address(server, log), log)
        finally:
            server.terminate()
            server.wait()


def _address(server: subprocess.Popen, log: Path) -> str:
    while server.poll() is None:
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text(encoding="utf-8")):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"moto's server ended:\n{log.read_text(encoding='utf-8')}")
