"""JEPA-SCORE: exact and estimated, beside what most people write: python -m benchmarks.density

Speed, on real pictures at 32 px and random weights: pipeline.density.jepa_score beside a per-sample autograd loop (one
backward pass an output, then torch.linalg.svdvals) and beside torch.func.jacrev sample by sample, which batches the
outputs of one sample. All take turns in one run; figures are medians over the turns, per image.

Estimators, on the backbones that `dvc repro` trained: the rank correlation of each with the exact score, within the
test images of one data set, for the same number of passes. Without runs/default that table is left out by name.

Writes reports/benchmarks/density.md. Exits with 1 if exact scores are less than 5x as fast as the loop for resnet18, or
differ from it by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import in_turn, write_report
from benchmarks.probes import pictures
from benchmarks.sketches import ESTIMATORS, full_jacobians
from pipeline.core.seeds import generator
from pipeline.data.views.multicrop import evaluation_view
from pipeline.density.jepa_score import EPS, jepa_score, jepa_score_sketch
from pipeline.models import backbones
from pipeline.models.weights import load_weights, read_description

RUNS = Path(__file__).parents[1] / "runs" / "default"
MODELS = ("resnet18", "test_resnet", "test_vit", "test_byobnet")
# Without it resnet18 starts with its residual branches at zero, so that its Jacobian has next to no rank.
ARGUMENTS = {"resnet18": {"zero_init_last": False}}
GATED, BAR, TOLERANCE = "resnet18", 5.0, 1e-4
SIZE_PX, LOOPED, SCORED = 32, 1, 16  # images: the loop's time is per image whatever their number
NUM_SKETCHES = 16
SPEED = ["backbone", "D", "living", "loop, ms", "jacrev, ms", "exact, ms", "loop / exact", "jacrev / exact"]
SPEED += ["difference", f"sketch of {NUM_SKETCHES}, ms", "exact / sketch"]
RANKED, PASSES = 64, (4, 8, 16, 32)


def views(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return evaluation_view(pixels, SIZE_PX, mean=mean, std=std)


def loop(encoder: nn.Module, images: Tensor) -> Tensor:
    """Score image by image, output by output, in float32 until the logarithm."""
    scores = []
    for image in images:
        image = image[None].clone().requires_grad_()
        embedding = encoder(image)[0]
        rows = [torch.autograd.grad(output, image, retain_graph=True)[0].flatten() for output in embedding]
        scores.append(torch.linalg.svdvals(torch.stack(rows)).clamp_min(EPS).log().double().sum())
    return torch.stack(scores)


def jacrev(encoder: nn.Module, images: Tensor) -> Tensor:
    """Score image by image with torch's own batching of outputs."""
    found = [full_jacobians(encoder, image[None], chunk_size=64)[0] for image in images]
    return torch.stack([torch.linalg.svdvals(rows).clamp_min(EPS).log().double().sum() for rows in found])


def speed_row(name: str, pixels: Tensor, device: torch.device, rounds: int) -> tuple[list[str], float, float]:
    """Return the row of one backbone, how many times faster than the loop ours is, and how far they differ."""
    arguments = backbones.backbone_arguments(name, img_size=SIZE_PX, kwargs=ARGUMENTS.get(name))
    encoder = backbones.initial_backbone(name, arguments, seed=0).eval().to(device)
    images = views(pixels[:SCORED], [0.5] * 3, [0.5] * 3).to(device)
    few = images[:LOOPED]
    took = in_turn(
        {
            "loop": lambda: loop(encoder, few),
            "jacrev": lambda: jacrev(encoder, few),
            "exact": lambda: jepa_score(encoder, images),
            "sketch": lambda: jepa_score_sketch(encoder, images, num_sketches=NUM_SKETCHES, seed=0),
        },
        rounds,
    )
    ms = {method: 1000 * s / (LOOPED if method in ("loop", "jacrev") else SCORED) for method, s in took.items()}
    plain, ours = loop(encoder, images[:2]), jepa_score(encoder, images)[:2]
    difference, ratio = float(((ours - plain) / plain).abs().max()), ms["loop"] / ms["exact"]
    with torch.no_grad():
        embeddings = encoder(images)
    dim, living = embeddings.shape[1], float((embeddings != 0).double().mean())
    cells = [name, str(dim), f"{living:.0%}", *(f"{ms[method]:.1f}" for method in ("loop", "jacrev"))]
    cells += [f"**{ms['exact']:.1f}**", f"**{ratio:.1f}x**", f"{ms['jacrev'] / ms['exact']:.1f}x", f"{difference:.0e}"]
    return [*cells, f"{ms['sketch']:.1f}", f"{ms['exact'] / ms['sketch']:.1f}x"], ratio, difference


def trained(runs: Path) -> dict[str, tuple[nn.Module, dict]]:
    """Return the backbone of the first cell of every data set and architecture, and what its weights say."""
    found = {}
    for path in sorted(runs.glob("*/pretrain/backbone.safetensors")):
        told = read_description(path, remedy="run dvc repro again")
        key = f"{path.parts[-3].partition('--')[0]}, {told['backbone']}"
        if key not in found:
            encoder = backbones.create_backbone(told["backbone"], told["kwargs"])
            load_weights(path, encoder)
            found[key] = encoder.eval(), told
    return found


def test_sets() -> dict[str, Tensor]:
    """Return test images (N, 1, 32, 32) uint8 of two real data sets."""
    digits = torch.from_numpy(load_digits().images)[-RANKED:, None] / 16 * 255
    digits = functional.interpolate(digits, size=(SIZE_PX, SIZE_PX), mode="bilinear").round().to(torch.uint8)
    return {"fashion-mnist-8k": pictures("test").pixels[:RANKED], "digits": digits}


def rank_correlations(encoder: nn.Module, images: Tensor) -> dict[tuple[str, int], float]:
    """Return each estimator's rank correlation with the exact score by name and passes."""
    exact = jepa_score(encoder, images)
    found: dict[tuple[str, int], list[Tensor]] = {}
    for block in images.split(16):
        rows = full_jacobians(encoder, block, chunk_size=16).double()
        for passes in PASSES:
            for name, estimate in ESTIMATORS.items():
                value = estimate(rows, passes, generator(0, "sketch")).cpu()
                found.setdefault((name, passes), []).append(value)
    scores = {key: torch.cat(parts) for key, parts in found.items()}
    for passes in PASSES:
        ours = jepa_score_sketch(encoder, images, num_sketches=passes, seed=0)
        scores["jepa_score_sketch", passes] = ours.cpu()
    return {key: float(spearmanr(values.numpy(), exact.cpu().numpy()).statistic) for key, values in scores.items()}


def estimator_rows(runs: Path, device: torch.device) -> list[list[str]]:
    """Return a row per estimator: mean and least correlation over trained backbones and sets, by passes."""
    found: dict[tuple[str, int], list[float]] = {}
    for encoder, told in trained(runs).values():
        for pixels in test_sets().values():
            images = views(pixels, told["mean"], told["std"]).to(device)
            for key, rho in rank_correlations(encoder.to(device), images).items():
                found.setdefault(key, []).append(rho)
    names = sorted({name for name, _ in found}, key=lambda name: -mean(found[name, PASSES[-2]]))
    return [[name, *(f"{mean(found[name, n]):.3f} ({min(found[name, n]):.2f})" for n in PASSES)] for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, pixels = torch.device(args.device), pictures("test").pixels
    speeds = {}
    for name in MODELS:
        speeds[name] = speed_row(name, pixels, device, args.rounds)
        print(f"{name}: {speeds[name][1]:.1f}x the loop", flush=True)
    names = list(trained(RUNS))
    notes = [
        f"Speed: images of fashion-mnist-8k at {SIZE_PX} px, random weights; milliseconds an image, medians of "
        f"{args.rounds} turns; {SCORED} images at a time for exact and sketch. living: outputs that are not zero; the "
        "rows of the others are zero and exact skips them. difference: largest relative one to the loop.",
        f"Estimators: mean (least) Spearman correlation with the exact score over {len(names)} trained backbones "
        f"({'; '.join(names)}) and {len(test_sets())} data sets, {RANKED} test images each; one pass is one product "
        "with J or its transpose. jepa_score_sketch takes 2 more."
        if names
        else "Estimators: not measured, there are no trained backbones in runs/default; `dvc repro` makes them.",
    ]
    tables = [(SPEED, [row for row, _, _ in speeds.values()])]
    if names:
        tables.append((["estimator", *(f"{n} passes" for n in PASSES)], estimator_rows(RUNS, device)))
    packages = ("torch", "timm", "scipy")
    path = write_report(
        "density", "JEPA-SCORE", notes, tables, packages=packages, threads=args.threads, device=args.device
    )
    print(path.read_text(encoding="utf-8"))
    return missed(*speeds[GATED][1:])


def missed(ratio: float, difference: float) -> int:
    if ratio < BAR:
        print(f"{GATED}: {ratio:.1f}x the loop, must be {BAR:g}x")
    if not difference <= TOLERANCE:
        print(f"{GATED}: differs from the loop by {difference:.0e}, must be at most {TOLERANCE:g}")
    return int(ratio < BAR or not difference <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
