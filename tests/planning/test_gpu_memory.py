"""Claims about the memory of cells that are too large for this machine:

1. The estimate is what the tensors of a real step take at most, within a twentieth: with BatchNorm and without, in
   float32 and bfloat16. Of micro-batches it is an upper bound, at most half too high, of blocks computed again one at
   most a fifth too high.
2. A batch is laid out as it fits: at once, else with blocks computed again, else in the largest micro-batches, else
   over as many cards as are needed; sharding divides weights, gradients and moments.
3. The plan says it of the largest pretraining, for named cards; ViT-L of the paper's Table 1 fits onto all of them.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from plan_files import fake_measurements, write
from torch.distributed._tools.mem_tracker import MemTracker

from pipeline.losses.objective import build_objective
from pipeline.models import backbones
from pipeline.planning import gpu_memory, step_time
from pipeline.planning.gpu_hours import CARDS, Card
from pipeline.planning.gpu_memory import Memory, training_memory
from pipeline.schema.pretrain import Layout, Pretrain
from pipeline.training.learner import build_learner
from stages import plan

pytestmark = pytest.mark.seconds
CPU, NUM_IMAGES = torch.device("cpu"), 32
VIEWS = {"num_global": 2, "num_local": 2, "global_px": 64, "local_px": 32}
SMALL = {"hidden_dims": [64], "proj_dim": 16}  # what the backbone keeps decides


def settings_of(**layout) -> Pretrain:
    return Pretrain(epochs=20, batch_size=NUM_IMAGES, views=VIEWS, projector=SMALL, layout=layout)


def tracked_peak(found: step_time.Speed, settings: Pretrain, bfloat16: bool) -> int:
    """Return the most bytes of tensors at once in a second real step."""
    views = settings.views
    what = {"lamb": 0.05, "num_global": views.num_global, "seed": 0}
    objective = build_objective(settings.objective, settings.objective_settings(), **what)
    backbone = backbones.initial_backbone(found.backbone, found.arguments, seed=0)
    learner = build_learner(backbone, found.embed_dim, settings, CPU, objective=objective.objective, num_classes=2)

    def step() -> None:
        groups = [(views.num_global, views.global_px), (views.num_local, views.local_px)]
        shown = [torch.randn(num_views, NUM_IMAGES, 3, size_px, size_px) for num_views, size_px in groups]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            projections, predictions = learner.project(shown)
            parts = {"predictions": predictions, "targets": learner.targets(shown[0])}
        learner.step(
            objective(projections, 0, labels=torch.zeros(NUM_IMAGES, dtype=torch.int64), **parts)["loss"], 1e-6
        )

    step()
    tracker = MemTracker()
    tracker.track_external(learner.backbone, learner.projector, learner.optimizer)
    with tracker:
        step()
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


# 1. Against a real step


@pytest.mark.parametrize(
    ("backbone", "bfloat16"),
    [
        ("resnet10t", False),
        pytest.param("resnet10t", True, marks=pytest.mark.slow),  # which a CPU emulates
        ("test_vit", False),
    ],
)
def test_the_estimate_is_the_peak_of_a_real_step(backbone, bfloat16):
    settings = settings_of()
    found = step_time.sketch(backbone, settings)
    estimate = training_memory(found, settings, bfloat16=bfloat16).peak(NUM_IMAGES)
    assert estimate == pytest.approx(tracked_peak(found, settings, bfloat16), rel=0.05)


@pytest.mark.slow
def test_of_micro_batches_it_is_an_upper_bound():
    settings = settings_of(micro_batch_size=4)
    found = step_time.sketch("test_vit", settings)
    estimate = training_memory(found, settings, bfloat16=False).peak(NUM_IMAGES, settings.layout)
    peak = tracked_peak(found, settings, bfloat16=False)
    assert peak <= estimate <= 1.5 * peak


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_of_blocks_computed_again_it_is_an_upper_bound(backbone):
    settings = settings_of(checkpoint_activations=True)
    found = step_time.sketch(backbone, settings)
    memory = training_memory(found, settings, bfloat16=False)
    peak = tracked_peak(found, settings, bfloat16=False)
    assert peak <= memory.peak(NUM_IMAGES, settings.layout) <= 1.2 * peak < memory.peak(NUM_IMAGES)


# 2. Layouts


def test_a_batch_is_laid_out_as_it_fits():
    card, memory = Card("card", 1, 100), Memory(10e9, 0.1e9, (1e9, 2e9), has_batchnorm=False)
    assert memory.peak(16) == 10e9 + 16 * 3.1e9
    assert memory.peak(64, Layout(micro_batch_size=8)) == 10e9 + 64 * 0.1e9 + 2 * 8 * 2e9
    layout = partial(Memory.layout, card=card)
    assert layout(memory, batch_size=25) == "at once"  # 90 % of the card
    assert layout(memory, batch_size=26) == "micro_batch_size 16"
    assert layout(memory, batch_size=400) == "micro_batch_size 8"
    assert layout(memory, batch_size=750) == "micro_batch_size 1"
    assert layout(memory, batch_size=1000) == "64 cards"
    assert layout(memory._replace(has_batchnorm=True), batch_size=100) == "4 cards"
    assert layout(memory._replace(fixed=95e9), batch_size=2) == "not at all"
    again = memory._replace(again=((0.1e9, 0.5e9), (0.2e9, 0.4e9)))
    assert again.peak(10, Layout(checkpoint_activations=True)) == pytest.approx(10e9 + 10 * (0.1e9 + 0.3e9 + 0.5e9))
    assert layout(again, batch_size=26) == "checkpoint_activations"
    assert layout(again, batch_size=400) == "micro_batch_size 8"
    assert layout(again, batch_size=780) == "micro_batch_size 1 + checkpoint_activations"
    large = memory._replace(fixed=95e9, state=90e9, a_block=1e9, has_batchnorm=True)
    assert large.peak(8, Layout(processes=4, sharded=True)) == pytest.approx(5e9 + 22.5e9 + 3e9 + 2 * 3.1e9)
    assert layout(large, batch_size=8) == "2 cards + sharded"


# 3. The plan


@pytest.mark.slow
def test_table_1_fits_onto_one_card():
    """ViT-L/14 at 224 px and batch 512, which takes hundreds of GB at once."""
    settings = Pretrain(epochs=100, batch_size=512)
    memory = training_memory(step_time.sketch("vit_large_patch14_224", settings), settings, bfloat16=True)
    assert memory.peak(512) > 300e9
    assert [memory.layout(card, 512).startswith(("checkpoint", "micro")) for card in CARDS] == [True] * len(CARDS)


def test_the_plan_says_how_the_largest_pretraining_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fake_measurements(monkeypatch)
    monkeypatch.setattr(gpu_memory, "CARDS", (Card("Small", 1, 0.05), Card("Large", 1, 10)))
    write(
        {
            "grid": {"backbones": ["test_vit", "test_convnext"]},
            "pretrain": {"epochs": 1_000_000, "views": {"num_local": 0}},
        }
    )
    assert plan.main() == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "GPU memory test_" in out and ", 64 images in bfloat16, take about 0 GB; Small (0.05 GB)" in out
    assert "Large (10 GB) at once" in out
