"""SIGReg forward and backward, ours and the peers', in time and peak memory: python -m benchmarks.sigreg

Every method draws its directions, computes the loss of the same (N, K) float32 projections and their gradient.
Methods run in turn in one process, so that a busy machine slows all alike; a row's ratio is between medians of that
run. Peak extra memory is measured in a process per method: the high-water mark of resident memory during one
forward and backward, over what was resident before (Linux). `official` is the plain form, derived from the
paper's formula: the official package is not on the package index.

Writes reports/benchmarks/sigreg.md. Exits with 1 if a ratio or a memory share misses its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.peers import ROOT, peer_python
from benchmarks.sigreg_table import SIZES, Size, missed_bars, write_table
from pipeline.losses.lejepa import random_directions, sigreg

# Tensors of N * S * T float32 that the plain form holds at its peak, rounded up; measured: 5.1.
PLAIN_TENSORS = 6

Step = Callable[[Tensor], Tensor]


def ours(size: Size, device: str) -> Step:
    _, dim, num_slices, num_knots = size
    generator = torch.Generator().manual_seed(0)

    def loss(z: Tensor) -> Tensor:
        directions = random_directions(dim, num_slices, generator=generator, device=device)
        return sigreg(z, directions, num_knots=num_knots)

    return loss


def official(size: Size, device: str) -> Step:
    """Eq. and trapezoid rule as written in the paper, vectorised over samples, slices and knots."""
    _, dim, num_slices, num_knots = size
    t = torch.linspace(0, 3, num_knots, device=device)
    normal = torch.exp(-t.square() / 2)
    step = torch.full_like(t, 2 * 3 / (num_knots - 1))
    step[[0, -1]] /= 2
    generator = torch.Generator(device).manual_seed(0)

    def loss(z: Tensor) -> Tensor:
        directions = torch.randn(dim, num_slices, generator=generator, device=device)
        angles = (z @ (directions / directions.norm(dim=0))).unsqueeze(-1) * t
        gap = (angles.cos().mean(-3) - normal).square() + angles.sin().mean(-3).square()
        return (z.shape[-2] * gap @ (step * normal)).mean()

    return loss


def stable_pretraining(size: Size, device: str) -> Step:
    from stable_pretraining.methods.lejepa import SlicedEppsPulley

    return SlicedEppsPulley(num_slices=size[2], n_points=size[3]).to(device)


def lightly(size: Size, device: str) -> Step:
    from lightly.loss.lejepa_loss import SIGReg

    torch.manual_seed(0)
    return SIGReg(knots=size[3], num_vectors=size[2]).to(device)


METHODS = {"ours": ours, "official": official, "stable-pretraining": stable_pretraining, "lightly": lightly}


def projections(size: Size, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size[0], size[1], generator=generator).to(device).requires_grad_()


def seconds(loss: Step, z: Tensor) -> float:
    z.grad = None
    start = time.perf_counter()
    loss(z).backward()
    if z.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def build(size: Size, device: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Return the methods that can run at this size, and for the others the reason why not."""
    steps, reasons = {}, {}
    needed = PLAIN_TENSORS * 4 * size[0] * size[2] * size[3]
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0]
    for name, method in METHODS.items():
        if name != "ours" and needed > 0.7 * available:
            reasons[name] = f"needs about {needed / 2**30:.0f} GiB"
            continue
        try:
            steps[name] = method(size, device)
        except ImportError as error:
            reasons[name] = f"not importable: {error}"
        except AssertionError:
            reasons[name] = "refuses even T"
    return steps, reasons


def time_all(size: Size, device: str) -> dict:
    """Median milliseconds of each method, run in turn, and the loss that each computes with directions of seed 0."""
    steps, reasons = build(size, device)
    z = projections(size, device)
    values, slowest = {}, 0.0
    for name, step in steps.items():
        values[name] = step(z).item()
        slowest = max(slowest, seconds(step, z))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(max(3, min(101, int(15 / slowest)))):
        for name, step in steps.items():
            times[name].append(1e3 * seconds(step, z))
    rounds = len(times["ours"])
    return {"ms": {n: median(t) for n, t in times.items()}, "values": values, "reasons": reasons, "rounds": rounds}


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak_memory(name: str, size: Size, device: str) -> float:
    """MiB that one forward and backward adds at its peak to what is resident before it, after a small warm-up."""
    small = (8, size[1], 8, size[3])
    seconds(METHODS[name](small, device), projections(small, device))
    step, z = METHODS[name](size, device), projections(size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(step, z)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    before = resident_mib("VmRSS")
    seconds(step, z)
    return resident_mib("VmHWM") - before


def in_peers(python: Path, *arguments: str):
    """Run this program in the peers' environment and read the JSON of its last line."""
    command = [python, "-m", "benchmarks.sigreg", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(python: Path, size: Size, common: list[str]) -> dict:
    result = in_peers(python, "--size", *map(str, size), *common)
    result["size"] = size
    result["mib"] = {n: in_peers(python, "--size", *map(str, size), "--memory", n, *common) for n in result["ms"]}
    return result


def worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    if options.versions:
        done = versions()
    elif options.memory:
        done = peak_memory(options.memory, tuple(options.size), options.device)
    else:
        done = time_all(tuple(options.size), options.device)
    print(json.dumps(done))


def versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    names = ("torch", "stable-pretraining", "lightly")
    return {"python": platform.python_version(), **{name: installed.get(name, "missing") for name in names}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    # What the program asks of itself in the peers' environment.
    parser.add_argument("--size", type=int, nargs=4, metavar=("N", "K", "S", "T"), help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--versions", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size or options.versions:
        worker(options)
        return 0

    python = peer_python("stable-pretraining", "lightly")
    common = ["--threads", str(options.threads), "--device", options.device]
    results = []
    for size in SIZES:
        results.append(measure(python, size, common))
        print(size, results[-1]["ms"], results[-1]["mib"], flush=True)
    path = ROOT / "reports" / "benchmarks" / ("sigreg.md" if options.device == "cpu" else "sigreg_cuda.md")
    write_table(path, results, in_peers(python, "--versions"), options.device, options.threads)
    missed = missed_bars(results) if options.device == "cpu" else []
    print(f"wrote {path.relative_to(ROOT)}", *missed, sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
