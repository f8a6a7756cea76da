"""Claims about fine-tuning:

1. It learns what no probe on the frozen features can, from all images and from a few a class, and leaves the given
   backbone as it was.
2. It is AdamW with warm-up and cosine on the mean cross-entropy, as a plain loop has it.
3. The learning rate follows held-out training images alone; the test images are scored once a run; few-shot runs see
   the images of the frozen few-shot probe and no others.
4. The same seed gives the same bits, whatever the global random state; an interrupted evaluation goes on.
5. A run that diverges scores 0.
6. The stage gives the same names in both modes, with the baselines asked for and no others.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from finished_cells import finish_cell
from torch import nn

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import generator
from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import evaluation_view
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector
from pipeline.models.weights import save_weights
from pipeline.probing import finetune
from pipeline.probing.finetune import accuracy, evaluate, finetuned
from pipeline.probing.probes import Split, Task, few_shot_members, linear_probe, stratified_holdout
from pipeline.runtime.files import read_json, write_json
from pipeline.schema.probe import FewShot, Finetune, Health, Knn, Linear, Probe
from pipeline.schema.resolved import ProbeRun
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from stages import probe as stage

pytestmark = pytest.mark.seconds

CPU = torch.device("cpu")
READER = Reader(8, [0.5] * 3, [0.25] * 3, 64, num_workers=0, device=CPU, autocast=choose_autocast("float32", CPU))
TUNING = Finetune(
    epochs=6, min_steps=30, batch_size=20, learning_rates=[1e-6, 3e-2], few_shot_lr=3e-2, num_draws=2,
    crop_scale=[0.5, 1.0],
)  # fmt: skip
PROBE = Probe(holdout_frac=0.25, few_shot=FewShot(shots=[2, 10]), finetune=TUNING)
RUN = TUNING.model_copy(update={"min_steps": 1, "warmup_frac": 0.0})


def tuned(backbone, images, members, *, lr=3e-2, site="pooled", seed=0, **changes) -> nn.Module:
    probe = PROBE.model_copy(update={"site": site, "finetune": RUN.model_copy(update=changes)})
    return finetuned(backbone, images, members, Task(3, probe, seed), READER, lr=lr)


def pictures(num: int = 120, seed: int = 0) -> ImageBatch:
    """Noise in which class 0 is redder, class 1 greener and class 2 neither; blue tells nothing."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(num)[torch.randperm(num, generator=random)] % 3
    pixels = torch.randint(40, 160, (num, 3, 8, 8), dtype=torch.uint8, generator=random)
    for channel in (0, 1):
        pixels[labels == channel, channel] += 80
    return ImageBatch(pixels, labels)


def blind_backbone() -> nn.Module:
    """A network that sees blue alone, until it learns."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone[0].weight.data[:, :2] = 0
    return backbone


def found(folder: Path, backbone=None, train=None, test=None, shots=(2, 10), **changes) -> dict[str, float]:
    few_shot, tuning = FewShot(shots=list(shots)), TUNING.model_copy(update=changes)
    task = Task(3, PROBE.model_copy(update={"few_shot": few_shot, "finetune": tuning}), seed=0)
    splits = train or pictures(), test or pictures(150, seed=1)
    return evaluate(backbone or blind_backbone(), *splits, task, READER, Checkpoints(folder, changes))


@pytest.fixture
def runs(monkeypatch) -> list[tuple[torch.Tensor, float, list[torch.Tensor]]]:
    """Members and learning rate of every run, and the images of each of its passes."""
    seen = []

    def train(backbone, images, members, *how, lr):
        seen.append((members, lr, []))
        return finetuned(backbone, images, members, *how, lr=lr)

    class Seen(finetune.BatchReader):
        def __call__(self, order, batch_size, **how):
            seen[-1][2].append(order)
            return super().__call__(order, batch_size, **how)

    monkeypatch.setattr(finetune, "finetuned", train)
    monkeypatch.setattr(finetune, "BatchReader", Seen)
    return seen


# 1. What it learns


def test_it_learns_what_frozen_features_do_not_show(tmp_path):
    backbone, splits = blind_backbone().train(), (pictures(), pictures(150, seed=1))
    before = copy.deepcopy(backbone.state_dict())
    frozen = linear_probe(
        *(Split(embeddings(backbone, images, READER), images.labels) for images in splits),
        Linear(learning_rates=[0.1], weight_decays=[0.0], epochs=10, batch_size=20),
        num_classes=3, holdout_frac=0.25, seed=0,
    )  # fmt: skip
    learned = found(tmp_path, backbone, *splits)
    assert frozen.top1 < 0.45 and learned["linear_top1"] > 0.95
    assert learned["linear_top1_2shot"] > 0.6 and learned["linear_top1_10shot"] > 0.9
    assert learned["linear_lr"] == 3e-2 and learned["linear_holdout_top1"] > 0.95
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training


# 2. What it does


def test_it_is_a_plain_loop():
    images = pictures(30)
    how = {"epochs": 5, "batch_size": 30, "crop_scale": [1.0, 1.0], "flip_prob": 0.0, "warmup_frac": 0.4}
    classifier = tuned(blind_backbone(), images, torch.arange(30), **how)
    backbone, head = blind_backbone(), nn.Linear(8, 3)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    view = evaluation_view(images.pixels, 8, mean=[0.5] * 3, std=[0.25] * 3)
    groups = [
        {"params": [backbone[0].weight, head.weight], "weight_decay": 0.05},
        {"params": [backbone[0].bias, head.bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups)
    for step in range(5):
        for group in adamw.param_groups:
            group["lr"] = 3e-2 * lr_factor(step, num_steps=5, num_warmup_steps=2, final_frac=0.0)
        order = torch.randperm(30, generator=generator(0, "finetune order", step))  # for the last bits
        adamw.zero_grad()
        nn.functional.cross_entropy(head(backbone(view[order])), images.labels[order]).backward()
        adamw.step()
    for ours, theirs in zip(classifier.parameters(), [*backbone.parameters(), *head.parameters()], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# 3. What is chosen, and by which images


def test_runs_see_their_images_alone(tmp_path, runs, monkeypatch):
    train, test, scored = pictures(), pictures(150, seed=1), []

    def score(classifier, images, *how):
        scored.append("test" if images is test else "train")
        return accuracy(classifier, images, *how)

    monkeypatch.setattr(finetune, "accuracy", score)
    found(tmp_path, train=train, test=test, epochs=2, min_steps=4, few_shot_lr=2e-2)
    fit, held = stratified_holdout(train.labels, 0.25, seed=0)
    few = [few_shot_members(train.labels, shots, seed=0, draw=draw) for shots in (2, 10) for draw in (0, 1)]
    assert [run[1] for run in runs] == [1e-6, 3e-2, 3e-2] + [2e-2] * 4
    for (members, _, passes), wanted in zip(runs, [fit, fit, torch.arange(120), *few], strict=True):
        assert torch.equal(members, wanted)
        assert all(sorted(order.tolist()) == sorted(wanted.tolist()) for order in passes)
    assert not set(fit.tolist()) & set(held.tolist()) and scored == ["train"] * 2 + ["test"] * 5


# 4. Repeatable


def test_the_same_seed_gives_the_same_bits():
    images, some = pictures(), torch.arange(50)
    first = tuned(blind_backbone(), images, some).state_dict()
    again, other = blind_backbone(), blind_backbone()
    torch.manual_seed(9)
    again = tuned(again, images, some).state_dict()
    other = tuned(other, images, some, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch):
    short = {"epochs": 1, "min_steps": 8}
    whole, calls = found(tmp_path / "whole", **short), Counter()

    def interrupted(*args, **how):
        calls["runs"] += 1
        if calls["runs"] == 4:
            raise KeyboardInterrupt
        return finetuned(*args, **how)

    monkeypatch.setattr(finetune, "finetuned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "part", **short)
    assert found(tmp_path / "part", **short) == whole
    assert calls["runs"] == 4 + 4  # three finished, one was cut off, four were left
    assert found(tmp_path / "part", **short) == whole and calls["runs"] == 8


# 5. Divergence


def test_a_run_that_diverges_scores_nothing():
    images = pictures(30)
    classifier = tuned(blind_backbone(), images, torch.arange(30), lr=1e30, epochs=3)
    assert accuracy(classifier, images, torch.arange(30), READER) == 0


# 6. The stage


@pytest.fixture
def cell(tmp_path, monkeypatch) -> str:
    """Finish a cell on a small data set in the working directory; return its key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "cell_record", lambda configs: configs)
    monkeypatch.setattr(stage, "publish_or_warn", lambda record: None)
    key, network = finish_cell(
        tmp_path, "test_byobnet", baselines=[], holdout_frac=0.25, batch_size=16, knn=Knn(k=3, temperature=0.1),
        linear=Linear(learning_rates=[0.01, 0.1], weight_decays=[0.0, 0.1], epochs=2, batch_size=16),
        few_shot=FewShot(shots=[2], num_draws=2, ridge=1.0),
        finetune=TUNING.model_copy(update={"epochs": 1, "min_steps": 1}),
        health=Health(num_images=32, num_slices=4, lidar_images=16, lidar_views=2),
    )  # fmt: skip
    images = pictures(24).pixels.permute(0, 2, 3, 1).numpy()
    splits = {name: [Picture(image, i % 3, str(i)) for i, image in enumerate(images)] for name in ("train", "test")}
    pack(Path("data/digits"), "digits", {"source": "folder"}, ["a", "b", "c"], splits)
    projector = {"width": network.num_features, "hidden_dims": [8], "proj_dim": 4}
    save_weights(Path("runs/default", key, "pretrain/projector.safetensors"), make_projector(**projector), projector)
    return key


def measured(key: str, **changes: object) -> dict[str, float]:
    """Run the stage with these changes of the probe."""
    path = Path("runs/default/configs", key, "probe.json")
    run = ProbeRun.read(path)
    probe = run.probe.model_copy(update=changes)
    write_json(path, run.model_copy(update={"probe": probe}).result_key())
    execution = path.with_name("execution.json")
    write_json(execution, read_json(execution) | {"probe": probe.model_dump()})
    stage.main(str(path))
    return read_json(Path("runs/default", key, "probe/metrics.json"))


def test_the_stage_in_both_modes(cell):
    frozen = measured(cell)
    tuned = measured(cell, mode="finetune", baselines=["random_init", "raw_pixels"])
    shared = ["linear_top1", "linear_lr", "linear_holdout_top1", "knn_top1"]
    shared += [f"linear_top1_2shot{part}" for part in ("", "_std", "_images")]
    assert sorted(frozen) == sorted([*shared, "linear_weight_decay"])
    assert sorted(name for name in tuned if not name.startswith(("random_init_", "raw_pixels_"))) == sorted(shared)
    assert sorted(name[12:] for name in tuned if name.startswith("random_init_")) == sorted(shared)
    assert sorted(name[11:] for name in tuned if name.startswith("raw_pixels_")) == sorted(frozen)
    assert tuned["knn_top1"] == frozen["knn_top1"]
    assert not list(Path(".scratch/checkpoints").glob("*"))
