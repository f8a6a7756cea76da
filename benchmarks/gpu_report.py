"""The report of benchmarks.gpu: every figure beside its bar, and all that could not be measured."""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.runtime.provenance import commit

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "torchvision", "timm", "triton", "stable-pretraining", "lightly")


class Figure(NamedTuple):
    """A measured number: its unit, the bar that it is held against ("" for none), and whether it passes (None: no bar).

    `text` is said in place of a number where there is none.
    """

    name: str
    value: float | None
    unit: str = ""
    bar: str = ""
    passed: bool | None = None
    text: str = ""

    def row(self) -> str:
        """Return its row of the table."""
        number = self.text if self.value is None else f"{self.value:.4g} {self.unit}".strip()
        return f"| {self.name} | {number} | {self.bar} | {VERDICTS[self.passed]} |"


VERDICTS = {True: "pass", False: "**fail**", None: ""}
Part = Callable[[], Iterator[Figure]]


@dataclass
class Report:
    """Figures part by part; written after each of them, so that whatever ends the program leaves what was found.

    Attributes:
        folder: of report.md and report.json.
        deadline: time.monotonic() at which no further part begins.
        tiny: sizes are those of a dry run, of which no figure means anything.
    """

    folder: Path
    deadline: float
    tiny: bool
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()

    def run(self, title: str, part: Part, *, needs_s: float) -> None:
        """Run a part, if there is time for it; an error ends this part alone and is told."""
        found = self.figures.setdefault(title, [])
        if self.left_s() < needs_s:
            self.undone.append(f"{title}: {max(self.left_s(), 0):.0f} s were left, it needs about {needs_s:.0f}")
            self.write()
            return
        print(f"{title} ...", flush=True)
        began = time.monotonic()
        try:
            for figure in part():
                found.append(figure)
                print(f"  {figure.row()}", flush=True)
                if figure.value is None:
                    self.undone.append(f"{title}, {figure.name}: {figure.text}")
        except Exception as error:  # whatever it is, the other parts are still to be measured
            self.undone.append(f"{title}: ended by {type(error).__name__}: {' '.join(str(error).split())[:500]}")
        finally:
            self.took_s[title] = time.monotonic() - began
            self.write()

    def failed(self) -> list[str]:
        """Return what misses its bar."""
        return [f"{title}: {f.name}" for title, found in self.figures.items() for f in found if f.passed is False]

    def write(self) -> None:
        """Write report.md and report.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = hardware()
        lines = ["# What a GPU makes of this project", ""]
        if self.tiny:
            lines += ["**A dry run of tiny sizes: it shows that the program works, and no figure means anything.**", ""]
        lines += [f"- {name}: {value}" for name, value in facts.items()]
        for title, found in self.figures.items():
            lines += ["", f"## {title}", "", f"{self.took_s.get(title, 0):.0f} s.", ""]
            lines += ["| figure | found | bar | |", "| --- | --- | --- | --- |", *(figure.row() for figure in found)]
        lines += ["", "## What could not be done", "", *(f"- {line}" for line in self.undone or ["nothing"])]
        (self.folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        plain: dict[str, Any] = {"hardware": facts, "tiny": self.tiny, "undone": self.undone, "took_s": self.took_s}
        plain["figures"] = {title: [figure._asdict() for figure in found] for title, found in self.figures.items()}
        (self.folder / "report.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def hardware() -> dict[str, str]:
    """Return what the figures belong to: card, driver's CUDA, cores, versions, commit, date and command."""
    versions = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    found = {
        "Date": datetime.datetime.now().isoformat(timespec="minutes"),
        "Command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "Commit": str(commit()),
        "Versions": ", ".join(f"{name} {versions.get(name, 'not installed')}" for name in PACKAGES),
        "Python": sys.version.split()[0],
        "Cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }
    if not torch.cuda.is_available():
        return found | {"GPU": "none that torch can use"}
    facts = torch.cuda.get_device_properties(0)
    told = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {facts.multi_processor_count} multiprocessors"
    capability = f"capability {facts.major}.{facts.minor}, CUDA {torch.version.cuda}"
    return found | {"GPU": f"{told}, {capability}; {torch.cuda.device_count()} visible"}
