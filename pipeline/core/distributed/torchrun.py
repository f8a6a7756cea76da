"""One program as several processes of this machine, by torchrun."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

from pipeline.core.distributed import collectives
from pipeline.runtime.errors import Interrupted
from pipeline.runtime.signals import deferred_signals

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def relaunch_under_torchrun(module: str, argument: str, processes: int) -> int | None:
    """Run `python -m module argument` as several processes and return their exit status.

    Several machines work on one run if torchrun's own environment says so on each of them (PET_NNODES, PET_NODE_RANK,
    PET_MASTER_ADDR, PET_MASTER_PORT); the one of rank 0 writes the results.

    Returns:
        The exit status; None, at once, if one process is enough or if this is one of several already: started here, or
        by torchrun, srun or whoever sets WORLD_SIZE to more than 1.

    Raises:
        UserError: what the environment says of other processes cannot be.
        Interrupted: after SIGTERM or Ctrl-C, once all processes have kept their state and ended.
    """
    across, world = "PET_NNODES" in os.environ, collectives.started()
    if (processes == 1 and not across) or world > 1:
        collectives.refuse_strangers()
        return None
    if "WORLD_SIZE" in os.environ:
        said = f"WORLD_SIZE={os.environ['WORLD_SIZE']} of the environment is passed over"
        print(f"{said}: pretrain.layout.processes is {processes}", file=sys.stderr, flush=True)
    launcher = [sys.executable, "-m", "pipeline.core.distributed.torchrun", *([] if across else ["--standalone"])]
    command = [*launcher, f"--nproc-per-node={processes}", "-m", module, argument]
    with deferred_signals() as request:
        # In a session of its own, so that a terminal's Ctrl-C comes once, from here: a second one would not wait.
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent)
        while child.poll() is None:
            if request.signum:
                child.terminate()
                child.wait()
                raise Interrupted(
                    request.signum, "all processes of the run have ended; rerun the same command to resume"
                )
            time.sleep(0.1)
    return child.returncode


def main() -> None:
    """Do what the command torchrun does, but say what to do about a rank that was killed.

    The ranks that are left may say so as well, if they notice before torchrun ends them (collectives.py).
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # else it has given its reason itself
            how = failure.signal_name()
            print(
                f"ERROR: rank {rank} was killed ({how}); rerun the same command to resume from the last checkpoint",
                file=sys.stderr,
            )
        sys.exit(1)


def _end_with_parent() -> None:
    """Ask Linux to end this process, and with it its workers, when the one that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
