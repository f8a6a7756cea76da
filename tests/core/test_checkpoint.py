"""Claims about files that must survive a crash:

1. A file is written whole or not at all; a failed write leaves the old file and nothing else.
2. The newest whole state is loaded: a torn, altered or foreign file is passed over for the one before it, no code in it
   is run, and a crash at any moment of a write leaves a whole one.
3. Another setting or another source file means another folder; the order of keys and sources does not.
4. Equal weights give equal files, with their description inside.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from pipeline.core.checkpoints import Checkpoints
from pipeline.models.weights import load_weights, save_weights
from pipeline.runtime.files import sha256_file, write_atomically, write_text


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


@pytest.fixture
def states(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path, {"seed": 0})


def number(states: Checkpoints) -> int | None:
    state = states.load()
    return None if state is None else int(state["step"])


def saved(states: Checkpoints, *steps: int) -> None:
    for step in steps:
        states.save({"step": torch.tensor(step), "history": [(1, 0.5)]}, step=step)


def files(states: Checkpoints) -> list[str]:
    """Return step numbers and endings of what lies in the folder."""
    return sorted(name.partition("-")[2].partition("-")[0].lstrip("0") or name for name in os.listdir(states.folder))


def newest(states: Checkpoints) -> Path:
    return max(states.folder.glob("step-*.pt"))


# 1. Whole or absent


@pytest.mark.parametrize("error", [OSError("disk full"), Interrupted()])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    path = tmp_path / "sub" / "file.bin"
    write_text(path, "old")
    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.bin"]


# 2. The newest whole state


def test_the_newest_state_is_loaded_and_two_are_kept(states):
    saved(states, 1, 2, 9, 10)
    assert number(states) == 10 and states.exist()
    assert files(states) == ["10", "9"]
    assert states.load()["history"] == [(1, 0.5)]


class Code:
    def __reduce__(self):
        return (os.mkdir, ("/nonexistent/never",))


def flipped(whole: bytes) -> bytes:
    """Change one bit in the middle, inside a tensor's values."""
    return whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]


WRECKS = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "one bit": flipped,
    "empty": lambda whole: b"",
}


@pytest.mark.parametrize("wreck", WRECKS.values(), ids=WRECKS)
def test_a_torn_file_is_passed_over(states, wreck, capsys):
    saved(states, 1, 2)
    last = newest(states)
    last.write_bytes(wreck(last.read_bytes()))
    assert number(states) == 1
    assert f"checkpoint {last} is unreadable (torn or altered" in capsys.readouterr().out
    saved(states, 2)
    assert number(states) == 2


def test_code_inside_a_whole_file_is_not_run(states, capsys):
    saved(states, 1)
    torch.save(Code(), states.folder / "evil")
    named = f"step-{2:012d}-{sha256_file(states.folder / 'evil')[:32]}.pt"
    (states.folder / "evil").rename(states.folder / named)
    assert number(states) == 1 and "Weights only load failed" in capsys.readouterr().out


def test_a_state_of_another_run_is_passed_over(tmp_path, states, capsys):
    saved(states, 1)
    other = Checkpoints(tmp_path, {"seed": 1})
    saved(other, 2)
    newest(other).rename(states.folder / newest(other).name)
    assert number(states) == 1 and "(of another run); falling back to the previous one" in capsys.readouterr().out


@pytest.mark.parametrize("call", range(3))
def test_a_crash_at_any_call_to_the_disk_loses_no_whole_state(states, monkeypatch, call):
    """Writing a state takes two renames and the removal of an old one; the process dies at one of them."""
    saved(states, 1, 2)
    calls = []

    def dying(real):
        def wrapped(*arguments, **options):
            calls.append(real)
            if len(calls) == call + 1:
                raise Interrupted
            return real(*arguments, **options)

        return wrapped

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    with pytest.raises(Interrupted):
        saved(states, 3)
    monkeypatch.undo()
    assert number(states) == (3 if call == 2 else 2)
    saved(states, 4)
    assert number(states) == 4 and files(states) == ["3", "4"] if call == 2 else ["2", "4"]


# 3. Identity


def test_folder_follows_identity_and_sources(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    write_text(first, "x = 1")
    write_text(second, "y = 1")

    def folder(identity, *sources):
        return Checkpoints(tmp_path, identity, sources).folder

    base = folder({"lr": 0.1, "seed": 0}, first, second)
    assert base.parent == tmp_path
    assert base == folder({"seed": 0, "lr": 0.1}, second, first)
    others = [folder({"lr": 0.1, "seed": 1}, first, second), folder({"lr": 0.1, "seed": 0}, first)]
    write_text(second, "y = 2")
    others.append(folder({"lr": 0.1, "seed": 0}, first, second))
    assert len({base, *others}) == 4


# 4. Weights


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 2))


def test_equal_weights_give_equal_files(tmp_path):
    for name, seed, lr in [("a", 0, 0.1), ("b", 0, 0.1), ("c", 1, 0.1), ("d", 0, 0.2)]:
        save_weights(tmp_path / name, model(seed), {"name": "test", "lr": lr, "mean": [0.5, 0.5]})
    blobs = {name: (tmp_path / name).read_bytes() for name in "abcd"}
    assert blobs["a"] == blobs["b"] and len(set(blobs.values())) == 3
    with safe_open(tmp_path / "a", "pt") as file:
        assert json.loads(file.metadata()["lejepa"]) == {"name": "test", "lr": 0.1, "mean": [0.5, 0.5]}


def test_weights_come_back_bit_for_bit(tmp_path):
    first, other = model(0), model(1)
    first[0] = first[0].to(memory_format=torch.channels_last)
    save_weights(tmp_path / "weights", first, {})
    load_weights(tmp_path / "weights", other)
    assert first.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())
