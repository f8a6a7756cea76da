"""A DVC repository of a few seconds, prepare -> work@cell -> check@cell -> total, and the launcher called in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIPELINE = """\
stages:
  prepare:
    cmd: cat seed.txt > prepared.txt
    deps:
      - seed.txt
    outs:
      - prepared.txt
  work:
    matrix:
      cell: [{cells}]
    cmd: {command}
    deps:
      - prepared.txt
    outs:
      - out/${{item.cell}}.txt
  check:
    matrix:
      cell: [{cells}]
    cmd: cat out/${{item.cell}}.txt > out/${{item.cell}}.checked
    deps:
      - out/${{item.cell}}.txt
    outs:
      - out/${{item.cell}}.checked
  total:
    cmd: cat out/*.checked > total.txt
    deps:
{checked}
    outs:
      - total.txt
"""
COMMAND = "(cat prepared.txt; echo ${item.cell}) > out/${item.cell}.txt"


class SmallPipeline:
    """The repository and the commands in it."""

    def __init__(self, root: Path, *, cells: str = "abcdef", command: str = COMMAND) -> None:
        """Make it, with one cell a letter; `command` writes out/<cell>.txt."""
        self.root = root
        home = Path(sys.executable).parent
        self.environment = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        checked = "\n".join(f"      - out/{cell}.checked" for cell in cells)
        text = PIPELINE.format(cells=", ".join(cells), command=f"mkdir -p out; {command}", checked=checked)
        (root / "dvc.yaml").write_text(text, encoding="utf-8")
        (root / "seed.txt").write_text("seed\n", encoding="utf-8")
        (root / ".gitignore").write_text("/out/\n/prepared.txt\n/total.txt\n/.scratch/\n", encoding="utf-8")
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "start")

    def start(self, *command: str) -> subprocess.Popen:
        """Start a command there."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=self.environment, **pipes)

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command there and return what it printed."""
        process = self.start(*command)
        printed, _ = process.communicate()
        assert process.returncode == code, f"{' '.join(command)} exited with {process.returncode}:\n{printed}"
        return printed

    def launch(self, *options: str, code: int = 0) -> str:
        """Run the launcher there."""
        return self.run("python", "-m", "stages.launch", *options, code=code)

    def total(self) -> str:
        """Return what the last stage wrote."""
        return (self.root / "total.txt").read_text(encoding="utf-8")
