"""The table of benchmarks.sigreg: what is measured, what must hold, and how it is written down."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

Size = tuple[int, int, int, int]

# (N, K, S, T): the least ratio of the fastest peer's time to ours.
BARS: dict[Size, float] = {
    (128, 64, 256, 17): 2.5,
    (512, 64, 1024, 17): 7.0,
    (2048, 64, 1024, 17): 7.0,
    (256, 512, 1024, 17): 2.5,
}
# The most memory of ours, as a share of the most frugal peer's.
MEMORY_BARS: dict[Size, float] = {(2048, 64, 1024, 17): 0.1}
# Table 6 of the paper, milliseconds on one V100 by (N, S, T). It does not state K; we take 64.
TABLE_6 = {
    (512, 512, 16): 0.465236,
    (512, 512, 64): 0.461317,
    (512, 512, 256): 0.627644,
    (2048, 512, 16): 1.406441,
    (8192, 512, 16): 6.188304,
    (8192, 8192, 16): 8.685009,
    (32768, 512, 16): 26.373118,
    (512, 2048, 16): 0.465614,
    (512, 8192, 16): 0.670379,
}
V100_MS: dict[Size, float] = {(n, 64, s, t): ms for (n, s, t), ms in TABLE_6.items()}
SIZES: list[Size] = [*BARS, *V100_MS]
PEERS = ("official", "stable-pretraining", "lightly")


def ratio(result: dict) -> float | None:
    """Time of the fastest peer over ours; None where no peer ran."""
    peers = [ms for name, ms in result["ms"].items() if name != "ours"]
    return min(peers) / result["ms"]["ours"] if peers else None


def memory_share(result: dict) -> float | None:
    """Our peak memory over that of the most frugal peer; None where no peer ran."""
    peers = [mib for name, mib in result["mib"].items() if name != "ours"]
    return result["mib"]["ours"] / min(peers) if peers else None


def missed_bars(results: list[dict]) -> list[str]:
    """Say which bars the results miss, one line each."""
    by_size = {tuple(result["size"]): result for result in results}
    lines = [
        f"{size}: {ratio(by_size[size]):.1f}x the fastest peer, must be {least}x"
        for size, least in BARS.items()
        if ratio(by_size[size]) < least
    ]
    return lines + [
        f"{size}: {memory_share(by_size[size]):.2f} of the most frugal peer's memory, must be at most {most}"
        for size, most in MEMORY_BARS.items()
        if memory_share(by_size[size]) > most
    ]


def hardware(device: str, threads: int) -> str:
    """Name the processor, or the GPU, and the threads."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), platform.processor())
    return f"{model}, {threads} threads"


def row(result: dict) -> str:
    """Write one size as a row of the table."""
    size, ms, mib = tuple(result["size"]), result["ms"], result["mib"]
    peers = [f"{ms[name]:.1f}" if name in ms else result["reasons"].get(name, "-") for name in PEERS]
    memory = [f"{mib[name]:.0f}" if name in mib else "-" for name in ("ours", *PEERS)]
    speedup, share = ratio(result), memory_share(result)
    cells = [str(size), f"**{ms['ours']:.2f}**", *peers, f"**{speedup:.1f}x**" if speedup else "-"]
    cells += [f"{BARS[size]}x" if size in BARS else "", " / ".join(memory), f"{share:.3f}" if share else "-"]
    return "| " + " | ".join([*cells, f"{V100_MS[size]:.2f}" if size in V100_MS else "", str(result["rounds"])]) + " |"


def write_table(path: Path, results: list[dict], versions: dict[str, str], device: str, threads: int) -> None:
    """Write the results as Markdown, with all that is needed to read and repeat them."""
    title = "# SIGReg forward and backward: ours and the peers'"
    columns = ["(N, K, S, T)", "ours, ms", *(f"{name}, ms" for name in PEERS), "fastest peer / ours", "bar"]
    columns += ["peak extra MiB: ours / " + " / ".join(PEERS), "memory share", "paper's Table 6, V100, ms", "rounds"]
    lines = [
        title,
        "",
        f"- Date: {datetime.date.today().isoformat()}",
        f"- Hardware: {hardware(device, threads)}",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"- Command: `python -m benchmarks.sigreg --device {device} --threads {threads}`",
        "- float32; medians; all methods in turn in one process, drawing their directions included.",
        "- `official` is the plain form derived from the paper's formula. Memory: one process per method.",
        "- Values agree: the largest relative difference from `official` at equal directions is "
        f"{max(difference(result) for result in results):.1e}.",
        "- The V100 column is what the paper published, on other hardware and for a K it does not state (here 64).",
        "",
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join(["---"] * len(columns)) + " |",
        *(row(result) for result in results),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def difference(result: dict) -> float:
    """Largest relative difference of any method's value from the plain form's (0 where that did not run)."""
    want = result["values"].get("official")
    return max((abs(value / want - 1) for value in result["values"].values()), default=0.0) if want else 0.0
