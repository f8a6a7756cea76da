"""What probes cost beside extracting their features, and beside what most people write: python -m benchmarks.probes

Real pictures: the 6,000 + 2,000 of fashion-mnist-8k at 32 px. Every probe must cost no more than extracting its
features once. Peers: for the linear sweep, nn.Linear with torch's AdamW, one learning rate after the other (same
batches, epochs, schedule and choice), and scikit-learn's LogisticRegression with its defaults, which has no learning
rate to choose; for k-NN, KNeighborsClassifier with the same weights; for few shots, RidgeClassifier on the same draws.
All take turns in one run; figures are medians over the turns.

Writes reports/benchmarks/probes.md. Exits with 1 if a probe costs more than extraction for resnet18.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional

from benchmarks.measure import in_turn, write_report
from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import generator
from pipeline.data.packed import ImageBatch
from pipeline.models import backbones, features
from pipeline.probing import probes
from pipeline.schema.probe import Linear

ARCHIVE = Path(__file__).parents[1] / "data" / "bundled" / "fashion-mnist-8k.npz"
MODELS = ("resnet18", "test_convnext")
GATED = "resnet18"  # the test models are smaller than anything that is worth probing
# The laptop grid's settings in params.yaml.
RATES, WEIGHT_DECAY, EPOCHS, BATCH, HELD = [0.001, 0.003, 0.01, 0.03, 0.1], 1e-6, 20, 512, 0.2
NEIGHBOURS, TEMPERATURE = 20, 0.07
SHOTS, DRAWS, RIDGE = 10, 5, 1.0
NUM_CLASSES, SIZE_PX = 10, 32
COLUMNS = ["backbone", "D", "extraction, s", "probe", "ours, s", "of extraction", "peer", "peer, s", "peer / ours"]
COLUMNS += ["top-1 ours", "top-1 peer"]


@dataclass
class Peer:
    """A peer of one of our probes: its name and what it does, returning its test accuracy."""

    probe: str
    name: str
    run: Callable[[], float]


def pictures(split: str) -> ImageBatch:
    with np.load(ARCHIVE) as arrays:
        pixels, labels = torch.from_numpy(arrays[f"x_{split}"]), torch.from_numpy(arrays[f"y_{split}"])
    return ImageBatch(pixels.unsqueeze(1), labels)


def extract(name: str, splits: list[ImageBatch], device: torch.device) -> list[probes.Split]:
    arguments = backbones.backbone_arguments(name, img_size=SIZE_PX)
    backbone = backbones.initial_backbone(name, arguments, seed=0)
    grey, autocast = [0.5] * 3, choose_autocast("float32", device)
    reader = features.Reader(SIZE_PX, grey, grey, batch_size=256, num_workers=0, device=device, autocast=autocast)
    return [
        probes.Split(features.embeddings(backbone, images, reader).to(device), images.labels.to(device))
        for images in splits
    ]


def our_probes(train: probes.Split, test: probes.Split) -> dict[str, Callable[[], float]]:
    fit = {"num_classes": NUM_CLASSES, "seed": 0}
    return {
        "linear": lambda: (
            probes.linear_probe(
                train,
                test,
                Linear(learning_rates=RATES, weight_decays=[WEIGHT_DECAY], epochs=EPOCHS, batch_size=BATCH),
                holdout_frac=HELD,
                **fit,
            ).top1
        ),
        "k-NN": lambda: probes.knn_probe(train, test, num_classes=NUM_CLASSES, k=NEIGHBOURS, temperature=TEMPERATURE),
        "few-shot": lambda: probes.few_shot_probe(train, test, shots=SHOTS, num_draws=DRAWS, ridge=RIDGE, **fit).top1,
    }


def peers(train: probes.Split, test: probes.Split) -> list[Peer]:
    return [
        Peer("linear", "one learning rate after the other", partial(one_by_one, train, test)),
        Peer("linear", "LogisticRegression", partial(logistic, train, test)),
        Peer("k-NN", "KNeighborsClassifier", partial(neighbours, train, test)),
        Peer("few-shot", "RidgeClassifier", partial(ridge, train, test)),
    ]


def one_by_one(train: probes.Split, test: probes.Split) -> float:
    """Train nn.Linear for every learning rate in turn, choose on held-out images, train on all, test."""
    fit, held = probes.stratified_holdout(train.labels, HELD, seed=0)
    scores = [train_linear(train.part(fit), train.part(held), lr) for lr in RATES]
    return train_linear(train, test, RATES[int(np.argmax(scores))])


def train_linear(train: probes.Split, test: probes.Split, lr: float) -> float:
    x, x_test = probes.standardise(train.features, train.features, test.features)
    head = nn.Linear(x.shape[1], NUM_CLASSES).to(x.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    adamw = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    num_steps, step = EPOCHS * -(-len(x) // BATCH), 0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator(0, "linear probe", epoch)).to(x.device)
        for members in order.split(BATCH):
            adamw.param_groups[0]["lr"] = lr * lr_factor(step, num_steps=num_steps, num_warmup_steps=0, final_frac=0.0)
            adamw.zero_grad()
            functional.cross_entropy(head(x[members]), train.labels[members]).backward()
            adamw.step()
            step += 1
    with torch.no_grad():
        return float((head(x_test).argmax(1) == test.labels).double().mean())


def logistic(train: probes.Split, test: probes.Split) -> float:
    x, x_test = probes.standardise(train.features.cpu(), train.features.cpu(), test.features.cpu())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its 100 iterations are the default that users run
        model = LogisticRegression().fit(x.numpy(), train.labels.cpu().numpy())
    return model.score(x_test.numpy(), test.labels.cpu().numpy())


def neighbours(train: probes.Split, test: probes.Split) -> float:
    model = KNeighborsClassifier(
        NEIGHBOURS, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    model.fit(train.features.cpu().numpy(), train.labels.cpu().numpy())
    return model.score(test.features.cpu().numpy(), test.labels.cpu().numpy())


def ridge(train: probes.Split, test: probes.Split) -> float:
    x, x_test = probes.standardise(train.features.cpu(), train.features.cpu(), test.features.cpu())
    labels, scores = train.labels.cpu(), []
    for draw in range(DRAWS):
        members = probes.few_shot_members(labels, SHOTS, seed=0, draw=draw)
        model = RidgeClassifier(alpha=RIDGE * x.shape[1]).fit(x[members].numpy(), labels[members].numpy())
        scores.append(model.score(x_test.numpy(), test.labels.cpu().numpy()))
    return float(np.mean(scores))


def rows_of(
    name: str, splits: list[ImageBatch], device: torch.device, rounds: int
) -> tuple[list[list[str]], list[str]]:
    """Return the table's rows of one backbone, and the probes that cost more than extraction."""
    train, test = extract(name, splits, device)
    ours, theirs = our_probes(train, test), peers(train, test)
    methods = {"extraction": lambda: extract(name, splits, device), **ours, **{peer.name: peer.run for peer in theirs}}
    took = in_turn(methods, rounds)
    whole, rows = took["extraction"], []
    for peer in theirs:
        mine = took[peer.probe]
        cells = [name, str(train.features.shape[1]), f"{whole:.2f}", peer.probe, f"**{mine:.3f}**"]
        cells += [f"**{mine / whole:.0%}**", peer.name, f"{took[peer.name]:.3f}", f"**{took[peer.name] / mine:.1f}x**"]
        rows.append([*cells, f"{ours[peer.probe]():.1%}", f"{peer.run():.1%}"])
    return rows, [probe for probe in ours if took[probe] > whole]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    splits, rows, costly = [pictures("train"), pictures("test")], [], {}
    for name in MODELS:
        found, costly[name] = rows_of(name, splits, torch.device(args.device), args.rounds)
        rows += found
    counts = " + ".join(str(len(images.labels)) for images in splits)
    notes = [
        f"{counts} images of fashion-mnist-8k at {SIZE_PX} px, random weights; medians of {args.rounds} turns; "
        "extraction includes making the backbone and the views.",
        f"linear: {len(RATES)} learning rates at once, {EPOCHS} epochs, {HELD:.0%} held out; the best again on all.",
        f"k-NN: {NEIGHBOURS} neighbours. few-shot: {SHOTS} shots, {DRAWS} draws.",
    ]
    tables = [(COLUMNS, rows)]
    packages = ("torch", "timm", "scikit-learn")
    path = write_report("probes", "Probes", notes, tables, packages=packages, threads=args.threads, device=args.device)
    print(path.read_text(encoding="utf-8"))
    for name, slow in costly.items():
        print("".join(f"{name}: the {probe} probe costs more than extraction\n" for probe in slow), end="")
    return 1 if costly[GATED] else 0


if __name__ == "__main__":
    sys.exit(main())
