"""An analysis that cannot be made: one line in place of its output, so that tables and page come all the same."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.project import repro_command

NOTE = "absent.txt"  # in the folder of an analysis; a file begins with the mark instead
MARK = "# absent: "


class NotAskedFor(UserError):
    """An analysis that the settings leave out; the message names the setting."""


def attempt(what: str, out: Path, make: Callable[[], object], *, command: str) -> None:
    """Make an analysis; if it fails, write the reason in place of its output, and say it.

    An interruption is no failure and goes on. The stage then succeeds, for DVC as well: `command` makes it again.

    Args:
        what: the analysis, for the message.
        out: its file, or its folder, which is emptied in case of failure.
        make: writes it.
        command: makes it anew, as a person types it.
    """
    try:
        make()
        return
    except NotAskedFor as error:
        reason = f"not asked for: {error}"
    except UserError as error:
        reason = f"cannot be made: {error}; then run: {command}"
    except Exception as error:  # tables and page matter more than an analysis; the traceback is for who can mend it
        traceback.print_exc()
        reason = f"failed: {type(error).__name__}: {error}; run it again: {command}"
    line = " ".join(reason.split())
    if out.suffix:
        write_text(out, f"{MARK}{line}\n")
    else:
        shutil.rmtree(out, ignore_errors=True)
        write_text(out / NOTE, f"{line}\n")
    print(f"{what}: {line}", file=sys.stderr)


def again(stage: str, params_path: str | Path) -> str:
    """Return the command that makes a stage anew, and what shows it.

    A plain `dvc repro` would not: to DVC the stage succeeded, and its cache would give back what it wrote.
    """
    command, _, pipeline = repro_command(params_path).partition(" repro")
    target = f"{pipeline.strip()}:{stage}" if pipeline else stage
    return f"{command} repro --force --downstream {target}"


def reason(out: Path) -> str:
    """Return why an output of an analysis holds none; "" if it holds one, or is not there."""
    note = out / NOTE if out.is_dir() else out
    if not note.is_file():
        return ""
    text = note.read_text(encoding="utf-8", errors="replace").strip()
    return text if note.name == NOTE else text.removeprefix(MARK) if text.startswith(MARK) else ""
