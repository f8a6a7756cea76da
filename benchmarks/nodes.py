"""What two nodes save that share nothing but a DVC remote: python -m benchmarks.nodes [--sleepers N] [--seconds S]

Cells that sleep, so that two cores show what many would: `dvc repro`, one after the other, against the launcher on a
Ray cluster of two nodes, each with clones and a cache of its own. Bar: 1.6 times as fast.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.launch import BAR_SPEEDUP, call, launch, timed, two_nodes
from benchmarks.measure import write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleepers", type=int, default=12, help="cells that sleep")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each of them sleeps")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    serial = timed(lambda folder: call(folder, "dvc", "repro"), args.sleepers, args.seconds, args.rounds)
    with two_nodes() as address:
        apart = "--remote", "shared", "--workdir", "$NODE_HOME/{}"
        work = launch("--engine", "ray", "--address", address, *apart)
        nodes = timed(work, args.sleepers, args.seconds, args.rounds)
    faster = serial / nodes
    print(f"{args.sleepers} cells of {args.seconds:g} s: dvc repro {serial:.1f} s, Ray {nodes:.1f} s, x {faster:.2f}")
    rows = [["`dvc repro`", f"{serial:.1f}", "1"], ["Ray, two nodes", f"{nodes:.1f}", f"{faster:.2f}"]]
    head = [f"{args.sleepers} cells that sleep {args.seconds:g} s", "s", "times as fast"]
    notes = [f"Median of {args.rounds} runs, each in a fresh repository; start and end of everything included."]
    notes += [f"Bar: {BAR_SPEEDUP} times as fast."]
    title, packages = "Nodes that share nothing but a DVC remote", ("dvc", "ray")
    print(write_report("nodes", title, notes, [(head, rows)], packages=packages, threads=1, device="cpu"))
    return int(faster < BAR_SPEEDUP)


if __name__ == "__main__":
    sys.exit(main())
