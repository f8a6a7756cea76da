"""Claims: what docs/tutorial.md tells a person to type works in a new clone, block by block, with small networks, few
epochs and the analyses of scores and pictures left out; a training that Ctrl-C ends goes on from its state."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import ROOT, Workspace

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCK = r"^(?:<!-- Ctrl-C once it shows ([^\n]+) -->\n)?```(bash|yaml)\n(.*?)^```$"
BLOCKS = re.findall(BLOCK, PAGE, re.DOTALL | re.MULTILINE)


def typed(workspace: Workspace, commands: str, interrupted_at: str) -> str:
    """Type commands as in a terminal, which sends Ctrl-C to all programs of the command once it shows some words."""
    shown, interrupted = b"", False
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    with subprocess.Popen(["bash", "-ec", commands], cwd=workspace.root, env=workspace.environment, **pipes) as program:
        while part := os.read(program.stdout.fileno(), 4096):
            shown += part
            if interrupted_at and interrupted_at.encode() in shown and not interrupted:
                os.killpg(program.pid, signal.SIGINT)
                interrupted = True
    told = shown.decode()
    assert interrupted == bool(interrupted_at) and (interrupted or program.returncode == 0), told
    return told


def installed(workspace: Workspace) -> None:
    """Let make find an environment here, which is the one of this test."""
    programs = workspace.root / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "dvc").write_text(f'#!/bin/sh\n# {programs}\nexec {Path(sys.executable).with_name("dvc")} "$@"\n')
    (programs / "dvc").chmod(0o755)
    (programs / "activate").touch()
    (workspace.root / ".venv/installed").touch()


@pytest.mark.slow
def test_the_tutorial_can_be_typed(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.keep_stages("diagnose")
    workspace.change_params({"pretrain": {"batch_size": 64}})
    workspace.commit("a new clone")
    installed(workspace)
    with socket.create_server(("127.0.0.1", 0)) as free:
        workspace.environment["PORT"] = str(free.getsockname()[1])  # of make ui
    told = []
    for words, language, text in BLOCKS:
        if language == "yaml":
            workspace.change_params(yaml.safe_load(text))
        else:
            told.append((text, typed(workspace, text, words)))
    _, before, after, _ = [shown for text, shown in told if text.startswith("make repro")]
    (step,) = re.findall(r"interrupted at step (\d+/44); checkpoint saved, rerun the same command", before)
    assert re.search(r"(\d+/44) \[", after)[1] == step, "it goes on where it was"
    cells = {path.parents[1].name for path in workspace.root.glob("runs/default/*/probe/metrics.json")}
    swept = {f"digits--{net}--lambda{lamb}--seed0" for net in ("test_byobnet", "test_vit") for lamb in (0.02, 0.05)}
    assert cells == swept | {"shoes--test_byobnet--lambda0.05--seed0"}
    assert (workspace.root / "my-model/model.safetensors").is_file()
