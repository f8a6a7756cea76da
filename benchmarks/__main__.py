"""All benchmarks, one after the other: python -m benchmarks [--threads N] [--device cpu|cuda]

Each runs as a program of its own, with its defaults. Exits with 1 if any of them missed a bar or failed.
benchmarks.launch, about many cells at once, and benchmarks.stream, about photographs on disk, are not among them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

PROGRAMS = ("sigreg", "views", "probes", "density", "step", "profile")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    failed = []
    for program in PROGRAMS:
        print(f"benchmarks.{program}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{program}", "--threads", str(args.threads)]
        if subprocess.run([*command, "--device", args.device], check=False).returncode:
            failed.append(program)
    print(f"missed a bar or failed: {', '.join(failed)}" if failed else "all bars hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
