"""One thin program per DVC stage: parse, load the configuration, call the library, write the outputs."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.project import enter
from pipeline.runtime.stage_count import counted

sys.dont_write_bytecode = True  # DVC hashes the rooms that paper/ depends on, with every __pycache__ in them
keep_freed_memory()

try:
    Path.home()
except RuntimeError:  # a container's user without an entry in passwd and without HOME, at which MLflow's import ends
    os.environ |= {"HOME": str(Path.cwd() / ".scratch"), "USER": str(os.getuid())}

_FULL, _DENIED = "free some space", "give yourself the right to write there (ls -l shows who has it)"
_UNWRITABLE = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EACCES: _DENIED, errno.EPERM: _DENIED}
_UNWRITABLE[errno.EROFS] = "use a folder on a disk that can be written to"
# What torch and CUDA say; the import of torch.OutOfMemoryError would cost every stage seconds.
_OUT_OF_MEMORY = re.compile(
    "out of (shared )?memory|(not enough|can.t allocate|Cannot allocate) memory|ALLOC_FAILED|signal: Killed"
)
SMALLER = """\
change one of these in params.yaml:
  - pretrain.batch_size, or pretrain.views: num_global, num_local, global_px, local_px lower (while pretraining)
  - probe.batch_size, probe.linear.batch_size, probe.finetune.batch_size lower (while probing)
  - pretrain.layout: checkpoint_activations and micro_batch_size keep less at a time, processes spread a batch over GPUs
    (sharded: the network as well); same results
  - pretrain.loader: memory_gb keeps fewer images in memory, num_workers starts fewer processes
or set pretrain.precision: bfloat16, or take a smaller network in grid.backbones; what was finished before is kept"""


def run(main: Callable[..., int | None]) -> None:
    """Call a stage with the command line's arguments; what a person can mend is shown without a traceback.

    The exit status is 1 for such an error and 128 + the signal's number after an interruption, as in a shell. Any other
    exception is a mistake of the program and keeps its traceback. Characters that the terminal's encoding lacks are
    printed as escapes; a pipe that is closed early (`| head`) ends the program quietly.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        with counted():
            code = main(*enter(sys.argv[1:]))
        sys.stdout.flush()
    except KeyboardInterrupt as request:
        print(request if isinstance(request, Interrupted) else "interrupted", file=sys.stderr)
        code = 128 + getattr(request, "signum", signal.SIGINT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os._exit(128 + signal.SIGPIPE)  # at its end Python would print again
        if not (told := _mendable(error)):
            raise
        print(f"ERROR: {told}", file=sys.stderr)
        code = 1
    sys.exit(code or 0)


def _nobody_reads() -> bool:
    """Whether the other end of the pipe that we print to is closed."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _mendable(error: Exception) -> str:
    """Return what to tell a person who can mend it, "" if nobody but a programmer can."""
    if isinstance(error, UserError) or (isinstance(error, FileNotFoundError) and error.errno is None):
        return str(error)  # without a number, the words are ours
    kind, reason = type(error).__name__, str(error).partition("\n")[0][:200]
    says_so = isinstance(error, RuntimeError | OSError) and _OUT_OF_MEMORY.search(str(error))
    if says_so or kind in ("MemoryError", "OutOfMemoryError"):
        return f"out of memory ({reason or kind}); {SMALLER}"
    link: BaseException | None = error
    while link:  # a library may meet a full disk and fail for another reason while it tidies up
        if isinstance(link, OSError) and link.errno in _UNWRITABLE:
            return _cannot_write(link)
        link = link.__cause__ or link.__context__
    return ""


def _cannot_write(error: OSError) -> str:
    where = error.filename2 or error.filename or f"a file of {Path.cwd()}"
    remedy = _UNWRITABLE[error.errno]
    return f"cannot write {where}: {error.strerror}; {remedy}, then run it again; what was finished before is kept"
