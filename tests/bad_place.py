"""A working directory in which a person does something wrong, and the table of such cases: name, how, what is said."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from bad_settings import SOUND
from source_helpers import serving

from pipeline.settings.cells import merge
from pipeline.sources import transfer
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from stages import configure, run


class Ended(NamedTuple):
    """How a stage ended: exit status, what it printed as an error, seconds."""

    status: int
    told: str
    seconds: float


class Place:
    """An empty working directory, and what a person does in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, request) -> None:
        self.root, self.monkeypatch, self.capsys, self.request = root, monkeypatch, capsys, request

    def params(self, change: dict | None = None) -> None:
        text = yaml.safe_dump(merge(SOUND, change or {}), allow_unicode=True)
        Path("params.yaml").write_text(text, encoding="utf-8")

    def set_of(self, **fields: Any) -> None:
        self.params({"datasets": {"new": fields}})

    def run(self, program: Any, *arguments: str) -> Ended:
        self.monkeypatch.setattr(sys, "argv", [program.__name__, *arguments])
        self.capsys.readouterr()
        started = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            run(program.main)
        return Ended(ended.value.code, self.capsys.readouterr().err, time.monotonic() - started)

    def configured(self, change: dict | None = None) -> None:
        """Write the settings of one cell, whose data set has 40 + 12 images of 4 classes."""
        self.params(change)
        assert self.run(configure).status == 0
        pack_noise(Path("data/digits"))

    def serve(self) -> Any:
        self.monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
        opened = serving()
        server = opened.__enter__()
        self.request.addfinalizer(lambda: opened.__exit__(None, None, None))
        return server

    def small_disk(self, options: str = "size=1m") -> Path:
        """Mount a file system of one mebibyte and return its folder."""
        folder = self.root / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
        self.request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))
        return folder


def pack_noise(folder: Path, *, per_class: tuple[int, ...] = (10, 10, 10, 10)) -> None:
    labels = {"train": np.repeat(np.arange(len(per_class)), per_class), "test": np.arange(12) % len(per_class)}
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    splits = {
        split: [Picture(noise[100 * (split == "test") + i], int(label), str(i)) for i, label in enumerate(values)]
        for split, values in labels.items()
    }
    pack(folder, folder.name, {"source": "folder"}, [f"class {i}" for i in range(len(per_class))], splits)


Attempt = tuple[Any, ...]
INPUTS: dict[str, tuple[Callable[[Place], Attempt], tuple[str, ...]]] = {}


def bad(name: str, *words: str) -> Callable:
    """Enter a function into the table; `words` must be in the message."""

    def enter(make: Callable[[Place], Attempt]) -> Callable[[Place], Attempt]:
        assert name not in INPUTS
        INPUTS[name] = (make, words)
        return make

    return enter
