"""Streaming a set that is not kept in memory, beside its decoders alone: python -m benchmarks.stream [--images 200000]

A synthetic set of JPEG files is packed by the real packer into a temporary folder, which is removed at the end.
Streaming: pipeline.data.loader.batches in the shuffled order of an epoch, from the start of its workers to their end.
Decode only: as many processes have read the same files in the same order before, and decode one after the other onto a
canvas of their own, with the loader's own function. The two take turns of about a second, of the same length, and the
processes of one rest while those of the other work, so that a busy machine slows both alike; every round starts all of
them anew.

Then more epochs are streamed, and the memory of this process and its workers is added up (PSS of
/proc/<pid>/smaps_rollup: a page that k processes share counts 1/k in each).

Writes reports/benchmarks/stream.md. Exits with 1 if streaming is under 90 % of decode only, or if an epoch's memory is
more than 5 % off the first one's.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import write_report
from pipeline.core.seeds import generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch, PackedSplit, decode, read_blocks
from pipeline.data.shuffle import shuffled
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack

BATCH, CANVAS_PX, NUM_CLASSES, NUM_TEST = 256, 160, 1000, 1000
NUM_DISTINCT = 256  # pictures; every file has a number in its comment, so no two files are the same bytes
WINDOW_GB = 0.5  # the default holds 4; less, so that a window is a part of the set
WARM_S = 1.0  # that a process decodes before its time is taken
TURNS = 25  # of each side in a round
SAMPLES = 20  # of memory, an epoch
LEAST_RATIO, MOST_DRIFT = 0.9, 0.05


class Round(NamedTuple):
    """Seconds an image, decoded only and streamed: of the clock, and of CPU over all processes."""

    alone_s: float
    streamed_s: float
    alone_cpu_s: float
    streamed_cpu_s: float


class Epoch(NamedTuple):
    """What was seen of one pass: images a second, and memory in MiB, median and peak of the samples."""

    rate: float
    median_mib: float
    peak_mib: float


def jpeg_files() -> list[bytes]:
    """Return pictures with the frequencies of photographs: noise at every scale, and grain."""
    draws, files = np.random.default_rng(0), []
    for _ in range(NUM_DISTINCT):
        pixels = draws.normal(128, 9, (CANVAS_PX, CANVAS_PX, 3))
        for side in (2, 4, 8, 16, 32):
            coarse = Image.fromarray(draws.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BICUBIC), float) - 128
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        files.append(out.getvalue())
    return files


def pictures(files: list[bytes], num_images: int) -> Iterator[Picture]:
    """Yield numbered copies: a JPEG file may have a comment after its first two bytes."""
    for number in range(num_images):
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
        file = files[number % len(files)]
        yield Picture(file[:2] + comment + file[2:], number % NUM_CLASSES, str(number))


_held: Iterator[bytes]  # of a decoding process, which reads them itself: to touch another's would copy its pages


def hold(images: PackedSplit, indices: np.ndarray) -> None:
    """Read files and get warm."""
    global _held
    _held = cycle(images.shards.read(indices))
    decode_for(WARM_S)


def decode_for(seconds: float) -> tuple[int, float]:
    """Decode the next files that are held; return how many, and the seconds of CPU."""
    canvas, num = np.empty((3, CANVAS_PX, CANVAS_PX), np.uint8), 0
    begun_s, ends = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        decode(next(_held), canvas)
        num += 1
    return num, time.process_time() - begun_s


def stream(images: PackedSplit, order: torch.Tensor, num_workers: int, look: Callable[[], None] | None = None) -> int:
    """Go through the images of `order`; `look` is called `SAMPLES` times on the way. Returns how many came."""
    num_batches, seen = -(-len(order) // BATCH), 0
    every = max(num_batches // SAMPLES, 1)
    for number, batch in enumerate(batches(images, order, BATCH, num_workers=num_workers), start=1):
        seen += len(batch.labels)
        if look and number % every == 0:
            look()
    return seen


def memory_mib() -> float:
    """Return the memory of this process and its children, each page counted once."""
    me = multiprocessing.current_process().pid
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return sum(_pss_kib(pid) for pid in [me, *children]) / 1024


def _pss_kib(pid: int | str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def one_round(images: PackedSplit, order: torch.Tensor, num_workers: int) -> Round:
    """Stream the whole set by turns, and after each decode only for as long; the other side's processes rest."""
    context = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=hold, initargs=(images, share)))
            for share in np.array_split(order.numpy(), num_workers)
        ]
        for begun in [pool.submit(int) for pool in pools]:
            begun.result()
        decoders, ended_cpu_s = set(multiprocessing.active_children()), cpu_seconds(resource.RUSAGE_CHILDREN)
        stream = batches(images, order, BATCH, num_workers=num_workers)
        num_batches = -(-len(order) // BATCH)
        turns, decoded = [], []
        for num in np.diff(np.linspace(0, num_batches + 1, TURNS + 1, dtype=int)):  # one more than there are: it ends
            turns.append(stream_turn(stream, int(num), decoders))
            decoded += [done.result() for done in [pool.submit(decode_for, turns[-1][0]) for pool in pools]]
        workers_cpu_s = cpu_seconds(resource.RUSAGE_CHILDREN) - ended_cpu_s  # they have ended, the decoders have not
    (clock_s, own_cpu_s), (num, alone_cpu_s) = (np.sum(parts, axis=0).tolist() for parts in (turns, decoded))
    return Round(clock_s / num, clock_s / len(order), alone_cpu_s / num, (own_cpu_s + workers_cpu_s) / len(order))


def stream_turn(stream: Iterator[ImageBatch], num_batches: int, decoders: set[BaseProcess]) -> tuple[float, float]:
    """Return the seconds, of the clock and of this process's CPU, until so many more batches are there.

    The loader's workers, which would decode ahead in the other side's turn, are stopped by a signal.
    """
    started, own_cpu_s = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
    signal_others(decoders, signal.SIGCONT)
    for _ in islice(stream, num_batches):
        pass
    signal_others(decoders, signal.SIGSTOP)
    return time.perf_counter() - started, cpu_seconds(resource.RUSAGE_SELF) - own_cpu_s


def signal_others(decoders: set[BaseProcess], request: signal.Signals) -> None:
    for process in set(multiprocessing.active_children()) - decoders:
        os.kill(process.pid, request)


def cpu_seconds(who: int) -> float:
    """Return what this process (RUSAGE_SELF) or its ended children (RUSAGE_CHILDREN) have used."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def whole_epochs(images: PackedSplit, order_of: Callable[[int], torch.Tensor], workers: int, num: int) -> list[Epoch]:
    """Stream whole epochs and look at the memory on the way."""
    epochs = []
    for epoch in range(num):
        samples: list[float] = []
        started = time.perf_counter()
        seen = stream(images, order_of(epoch), workers, lambda held=samples: held.append(memory_mib()))
        rate = seen / (time.perf_counter() - started)
        epochs.append(Epoch(rate, statistics.median(samples), max(samples)))
        print(f"epoch {epoch + 1}: {epochs[-1]}", file=sys.stderr, flush=True)
    return epochs


def measure(folder: Path, args: argparse.Namespace) -> tuple[list[Round], list[Epoch], str]:
    files = jpeg_files()
    splits = {"train": pictures(files, args.images), "test": pictures(files, NUM_TEST)}
    started = time.perf_counter()
    pack(folder, "stream", {"source": "synthetic"}, [str(label) for label in range(NUM_CLASSES)], splits)
    packing_s = time.perf_counter() - started
    images, blocks = PackedSplit(folder, "train", load_px=CANVAS_PX), read_blocks(folder, "train")
    num_bytes = int(blocks.num_bytes.sum())

    def order_of(epoch: int) -> torch.Tensor:
        draws = generator(0, "order", epoch)
        return shuffled(len(images), blocks=blocks, window_gb=args.window_gb, generator=draws)

    told = (
        f"{len(images):,} JPEG files of {CANVAS_PX} x {CANVAS_PX} px ({NUM_DISTINCT} distinct, numbered), "
        f"{num_bytes / len(images) / 1e3:.1f} KB each, {num_bytes / 1e9:.2f} GB in {len(blocks.num_bytes)} record "
        f"batches, packed in {packing_s:.0f} s; shuffled in a window of {args.window_gb:g} GB."
    )
    print(told, file=sys.stderr, flush=True)
    rounds = []
    for number in range(args.rounds):
        rounds.append(one_round(images, order_of(number), args.threads))
        print(rounds[-1], file=sys.stderr, flush=True)
    return rounds, whole_epochs(images, order_of, args.threads, args.epochs), told


def drift(epochs: list[Epoch]) -> float:
    """Return the largest deviation of an epoch's memory, median or peak, from the first one's, as a fraction."""
    first = epochs[0]
    medians, peaks = (
        [getattr(epoch, name) / getattr(first, name) - 1 for epoch in epochs] for name in first._fields[1:]
    )
    return max(map(abs, [*medians, *peaks]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="loader workers, and processes that decode only")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--window-gb", type=float, default=WINDOW_GB)
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="batches end in memory: nothing is trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="stream-") as place:
        rounds, epochs, told = measure(Path(place) / "set", args)
    ratios = [one.alone_s / one.streamed_s for one in rounds]
    ratio = statistics.median(ratios)
    cpu_ratio = statistics.median(one.alone_cpu_s / one.streamed_cpu_s for one in rounds)
    moved = drift(epochs)
    notes = [
        told,
        f"{args.threads} workers, batches of {BATCH}; {args.rounds} rounds, in each of which the whole set is streamed "
        f"in {TURNS} turns and decoded only for as long after each, by new processes; medians, the ratio is that of "
        f"the rounds' ratios, of which the least is {min(ratios):.1%} and the most {max(ratios):.1%}. Starting and "
        "ending the workers counts as streaming.",
        "Streaming finds the files in the page cache, decode only in its own memory. Nothing is trained, no GPU.",
        f"Memory: PSS of the process and its workers, {SAMPLES} samples an epoch.",
    ]
    alone, streamed, alone_cpu, streamed_cpu = map(statistics.median, zip(*rounds, strict=True))
    bar = f"{LEAST_RATIO:.0%}"
    speed = [
        ["images/s", f"{1 / alone:,.0f}", f"{1 / streamed:,.0f}", f"**{ratio:.1%}**", bar],
        ["CPU an image, us", f"{alone_cpu * 1e6:.0f}", f"{streamed_cpu * 1e6:.0f}", f"{cpu_ratio:.1%}", ""],
    ]
    rows = [[str(n), f"{e.rate:,.0f}", f"{e.median_mib:.0f}", f"{e.peak_mib:.0f}"] for n, e in enumerate(epochs, 1)]
    tables = [
        (["", "decode only", "streaming", "ratio", "bar"], speed),
        (["epoch", "images/s", "memory, median MiB", "memory, peak MiB"], rows),
        (["largest deviation from epoch 1", "bar"], [[f"**{moved:.1%}**", f"{MOST_DRIFT:.0%}"]]),
    ]
    how = {"packages": ("torch", "pillow", "pyarrow"), "threads": args.threads, "device": "cpu"}
    title = "Streaming from packed files beside decoding alone"
    print(write_report("stream", title, notes, tables, **how).read_text(encoding="utf-8"))
    return 0 if ratio >= LEAST_RATIO and moved <= MOST_DRIFT else 1


if __name__ == "__main__":
    sys.exit(main())
