"""CIFAR-10 in benchmarks.gpu: the recipe of paper/cifar10_resnet18 as far as the minutes carry, call after call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu_report import ROOT, Figure, Report
from pipeline.catalogue.datasets import Huggingface
from pipeline.catalogue.validation import read_section
from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.loader import open_split
from pipeline.data.packed import ImageBatch, PackedSplit, read_meta
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models.backbones import backbone_arguments, initial_backbone
from pipeline.models.features import Reader, embeddings
from pipeline.probing.probes import Split, knn_probe, linear_probe
from pipeline.runtime.files import read_json, write_json
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe
from pipeline.sources.download import download
from pipeline.training.learner import build_learner
from pipeline.training.loop import Recipe, pretrain

RECIPE = ROOT / "paper" / "cifar10_resnet18" / "params.yaml"
PUBLISHED = (91.02, 300)  # eb_jepa: online linear top-1 in percent, epochs
END_S = 60  # kept for the accuracies at the end
LINEAR_EPOCHS = 20  # of the linear probe: the recipe's 100 would take the minutes of the training
KNN_EPOCHS = {1, 2, 5, *range(10, 301, 10)}
STATES = ROOT / ".scratch" / "gpu"


def cifar_folder(given: str) -> Path:
    """Return the folder of the packed set, made from parquet files where they were given."""
    if "{split}" not in given:
        return Path(given)
    folder = STATES / "cifar10"
    if not (folder / "meta.json").exists():
        download("cifar10", Huggingface(source="huggingface", path=given), folder)
    return folder


def cifar_figures(report: Report, device: torch.device, given: str) -> Iterator[Figure]:
    """Go on with the recipe until the time is over; every accuracy that was ever measured is in the report."""
    folder, recipe = cifar_folder(given), read_section(RECIPE, "pretrain", Pretrain)
    if not (folder / "meta.json").exists():
        how = "dvc --cd paper repro data/dvc.yaml:download@cifar10, or --cifar10 'PATH/cifar10-{split}.parquet'"
        yield Figure("accuracy", None, text=f"there is no {folder / 'meta.json'}: {how}")
        return
    settings = recipe.model_copy(update={"epochs": 1, "batch_size": 16}) if report.tiny else recipe
    num_classes = len(read_meta(folder)["classes"])
    opening = {"load_px": settings.load_px, "memory_gb": 4.0}
    train, test = (open_split(folder, name, **opening) for name in ("train", "test"))
    arguments = backbone_arguments("resnet18", img_size=32, small_stem=settings.backbone.small_stem)
    backbone = initial_backbone("resnet18", arguments, seed=0)
    views = Multicrop(**settings.views.model_dump())
    objective = RunObjective(LeJEPA(**settings.objective_settings()), lamb=0.01, num_global=2, seed=0)
    learner = build_learner(backbone, backbone.num_features, settings, device)
    autocast = choose_autocast(settings.precision, device)
    identity = [settings.model_dump(mode="json"), str(folder), str(device)]
    checkpoints = Checkpoints(STATES / "states", identity)
    seen = Accuracies(STATES / f"accuracies-{checkpoints.identity}.json", train, test, num_classes)
    reader = Reader(32, settings.views.mean, settings.views.std, 512, num_workers=0, device=device, autocast=autocast)
    how = {"device": device, "autocast": autocast, "checkpoints": checkpoints}
    began, state = time.monotonic(), checkpoints.load()
    done = 0
    num_before = len(state["history"]) if state else 0  # their losses come first, beside the weights of the last one
    for epoch in pretrain(learner, train, settings, Recipe(views, objective, 0), **how):
        done = epoch.epoch
        if done > num_before and done in KNN_EPOCHS:
            seen.measure(done, backbone, reader, linear=False)
        if report.left_s() < END_S and not report.tiny:
            break
    seen.measure(done, backbone, reader, linear=True)
    yield Figure("epochs done of the recipe, all calls together", done, "epochs")
    yield Figure("minutes of this call", (time.monotonic() - began) / 60, "min")
    for epoch, found in sorted(seen.found.items(), key=lambda item: int(item[0])):
        for name, value in found.items():
            yield Figure(f"epoch {epoch} of the schedule of {settings.epochs}: {name} top-1", 100 * value, "%")
    last = 100 * seen.found[str(done)]["linear"]
    top1, epochs = PUBLISHED
    passed = last >= top1 - 1 if done == epochs else None
    yield Figure(
        f"linear top-1 after {done} epochs", last, "%", f"{top1} at {epochs} epochs (eb_jepa), within 1", passed
    )


class Accuracies:
    """Accuracies by epoch, kept in a file beside the states of the run."""

    def __init__(self, path: Path, train: ImageBatch | PackedSplit, test: ImageBatch | PackedSplit, num_classes: int):
        self.path, self.splits, self.num_classes = path, (train, test), num_classes
        self.found: dict[str, dict[str, float]] = read_json(path) if path.exists() else {}

    def measure(self, epoch: int, backbone: nn.Module, reader: Reader, *, linear: bool) -> None:
        """Probe the frozen backbone by k-NN, and by a linear classifier if asked to."""
        settings = read_section(RECIPE, "probe", Probe)
        features = [
            Split(embeddings(backbone, images, reader).to(reader.device), images.labels.to(reader.device))
            for images in self.splits
        ]
        how = {"num_classes": self.num_classes}
        found = {"k-NN": knn_probe(*features, **how, **settings.knn.model_dump())}
        if linear:
            chosen = {"holdout_frac": settings.holdout_frac, "seed": 0}
            quick = settings.linear.model_copy(update={"epochs": LINEAR_EPOCHS})
            found["linear"] = linear_probe(*features, quick, **how, **chosen).top1
        backbone.train()
        self.found[str(epoch)] = {**self.found.get(str(epoch), {}), **found}
        write_json(self.path, self.found)
