"""Streaming photographs and cutting their views, beside the decoder alone and torchvision: python -m benchmarks.stream

A synthetic set of 500 x 375 px JPEG files is packed by the real packer into a temporary folder. What counts is the
processor time of all processes together, so that whatever a loader does beside decoding is seen and another program is
not; methods take turns. Views are 2 of 224 px and 6 of 98 px, as uint8, without flips and colours, for which our views
have the device.

Then epochs are streamed while the memory of this process and its worker is added up (PSS of /proc/<pid>/smaps_rollup).

Writes reports/benchmarks/stream.md. Exits with 1 if whole pictures are streamed at under 90 % of decode only, or if an
epoch's memory is more than 5 % off the first one's.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.measure import write_report
from pipeline.data.loader import BatchReader
from pipeline.data.packed import PackedSplit, decode
from pipeline.data.photographs import RandomCut, cut_photographs
from pipeline.data.views.multicrop import Multicrop
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack

BATCH, WIDTH_PX, HEIGHT_PX, NUM_DISTINCT = 64, 500, 375, 128
VIEWS = Multicrop()
CUT = RandomCut(VIEWS, 0, "crops")
LEAST_RATIO, MOST_DRIFT = 0.9, 0.05


def jpeg_files() -> list[bytes]:
    """Return pictures with the frequencies of photographs: noise at every scale, and grain."""
    draws, files = np.random.default_rng(0), []
    for _ in range(NUM_DISTINCT):
        pixels = draws.normal(128, 9, (HEIGHT_PX, WIDTH_PX, 3))
        for side in (2, 4, 8, 16, 32, 64):
            coarse = Image.fromarray(draws.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BICUBIC), float) - 128
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
    return files


class TorchvisionViews(Dataset):
    """The same views by torchvision's transforms of the decoded picture, as its users write them."""

    def __init__(self, images: PackedSplit) -> None:
        self.images = images
        kinds = ((VIEWS.global_px, VIEWS.global_scale), (VIEWS.local_px, VIEWS.local_scale))
        self.crops = [v2.Compose([v2.RandomResizedCrop(px, scale), v2.PILToTensor()]) for px, scale in kinds]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = Image.open(io.BytesIO(self.images.encoded(index))).convert("RGB")
        large, small = self.crops
        return (
            torch.stack([large(picture) for _ in range(VIEWS.num_global)]),
            torch.stack([small(picture) for _ in range(VIEWS.num_local)]),
        )


def go_through(batches: Iterator) -> None:
    for _ in batches:
        pass


def methods(whole: PackedSplit, photographs: PackedSplit) -> dict[str, Callable[[], None]]:
    order = torch.arange(len(whole))
    files = [whole.encoded(index) for index in range(len(whole))]
    read_whole, read_views = (BatchReader(images, num_workers=1) for images in (whole, photographs))
    theirs = DataLoader(TorchvisionViews(photographs), BATCH, num_workers=1, persistent_workers=True)

    def cut_alone() -> None:
        for number, start in enumerate(range(0, len(files), BATCH)):
            cut_photographs(files[start : start + BATCH], 3, CUT, number)

    return {
        "decode only": lambda: go_through(decode(file, 3) for file in files),
        "whole pictures, streamed": lambda: go_through(read_whole(order, BATCH)),
        "decode and cut 8 views, no loader": cut_alone,
        "8 views, streamed": lambda: go_through(read_views(order, BATCH, cut=CUT)),
        "8 views, torchvision in a DataLoader": lambda: go_through(theirs),
    }


def processes() -> list[str]:
    """Return the numbers of this process and its children."""
    me = str(os.getpid())
    return [me, *Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def cpu_s() -> float:
    """Return the processor time that this process and its children have used."""
    parts = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes())
    return sum(int(part[11]) + int(part[12]) for part in parts) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_in_turn(methods: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each; round 0 warms up."""
    took: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        for name, method in methods.items():
            before = cpu_s()
            method()
            if number:
                took[name].append(cpu_s() - before)
    return {name: statistics.median(times) for name, times in took.items()}


def memory_mib() -> float:
    """Return the memory of this process and its children, each page counted once."""
    return sum(_pss_kib(pid) for pid in processes()) / 1024


def _pss_kib(pid: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def peaks_mib(photographs: PackedSplit, epochs: int) -> list[float]:
    """Return the highest memory of each epoch of 8 views."""
    read, order = BatchReader(photographs, num_workers=1), torch.arange(len(photographs))
    return [max(memory_mib() for _ in read(order, BATCH, cut=CUT)) for _ in range(epochs)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of which the memory is looked at")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="batches end in memory: nothing is trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = jpeg_files()
    with tempfile.TemporaryDirectory(prefix="stream-") as place:
        pictures = [Picture(files[i % NUM_DISTINCT], i % 2, str(i)) for i in range(args.images)]
        pack(Path(place) / "set", "stream", {}, ["a", "b"], {"train": pictures, "test": pictures[:2]})
        whole, photographs = (PackedSplit(Path(place) / "set", "train", load_px=px) for px in (512, 256))
        took = cpu_seconds_in_turn(methods(whole, photographs), args.rounds)
        peaks = peaks_mib(photographs, args.epochs)
    alone_s = took["decode only"]
    rows = [[name, f"{args.images / s:,.0f}", f"{alone_s / s:.0%}"] for name, s in took.items()]
    ratio = alone_s / took["whole pictures, streamed"]
    drift = max(abs(peak / peaks[0] - 1) for peak in peaks)
    notes = [
        f"{args.images:,} JPEG files of {WIDTH_PX} x {HEIGHT_PX} px ({NUM_DISTINCT} distinct), "
        f"{sum(map(len, files)) / len(files) / 1e3:.0f} KB each; one worker, batches of {BATCH}; medians of "
        f"{args.rounds} rounds. A core is one that has nothing else to do: processor time of all processes together.",
        f"Views: {VIEWS.num_global} of {VIEWS.global_px} px and {VIEWS.num_local} of {VIEWS.local_px} px, uint8. "
        "Files are in the page cache. Nothing is trained, no GPU.",
        f"Through the loader views come at {took['decode and cut 8 views, no loader'] / took['8 views, streamed']:.0%} "
        "of the speed of the same work without it.",
    ]
    if args.rounds == 1:
        notes.append("One short round: speeds and shares are rough, and so is the ratio to torchvision's transforms.")
    tables = [
        (["", "pictures/s and core", "share of decode only"], rows),
        (["bar", "wanted", "found"], [
            ["whole pictures, streamed, of decode only", f">= {LEAST_RATIO:.0%}", f"**{ratio:.1%}**"],
            ["peak memory, off the first epoch's", f"<= {MOST_DRIFT:.0%}", f"**{drift:.1%}** of {peaks[0]:.0f} MiB"],
        ]),
    ]  # fmt: skip
    how = {"packages": ("torch", "torchvision", "pillow", "pyarrow"), "threads": 1, "device": "cpu"}
    title = "Streaming photographs and cutting their views"
    print(write_report("stream", title, notes, tables, **how).read_text(encoding="utf-8"))
    return 0 if ratio >= LEAST_RATIO and drift <= MOST_DRIFT else 1


if __name__ == "__main__":
    sys.exit(main())
