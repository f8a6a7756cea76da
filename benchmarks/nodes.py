"""What two nodes save that share nothing but a DVC remote: python -m benchmarks.nodes [--sleepers N] [--seconds S]

Cells that sleep, so that two cores show what many would: `dvc repro`, one after the other, against the launcher on a
Ray cluster of two nodes, each with clones and a cache of its own. Bar: 1.6 times as fast.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.launch import BAR_SPEEDUP, asleep
from benchmarks.measure import write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleepers", type=int, default=12, help="cells that sleep")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each of them sleeps")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    faster, table = asleep(args, "--remote", "shared", "--workdir", "$NODE_HOME/{}")
    notes = [f"Median of {args.rounds} runs, each in a fresh repository; start and end of everything included."]
    notes += [f"Bar: {BAR_SPEEDUP} times as fast."]
    title, packages = "Nodes that share nothing but a DVC remote", ("dvc", "ray")
    print(write_report("nodes", title, notes, [table], packages=packages, threads=1, device="cpu"))
    return int(faster < BAR_SPEEDUP)


if __name__ == "__main__":
    sys.exit(main())
