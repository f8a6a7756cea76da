"""Claims about training by several processes (2 and 4 gloo ranks on the CPU):

1. Over 54 steps, with BatchNorm in backbone and projector and views drawn at random, they come to the weights, the
   running statistics, the losses, the gradient norms and the watched numbers of one process with the same global batch,
   up to rounding: each with all weights (DDP) or with a part of them (FSDP2). So does a transformer with an averaged
   encoder, also if it computes blocks and micro-batches again.
2. A run that is ended by a signal to one rank goes on with another number of processes, to the same weights; from parts
   of the weights to all of them as well, and back.
3. A batch that cannot be shared equally is refused.
4. BatchNorm is synchronised unless pretrain.sync_batchnorm is false; its gradient is that of torch on the concatenated
   batch, on unequal parts too.
"""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_training import CPU, digits, in_a_batch
from torch import nn

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.batch_norm import SyncBatchNorm, synchronise
from pipeline.core.distributed.collectives import share
from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.distributed.sharding import own_part
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.lejepa import epps_pulley
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models.backbones import initial_backbone
from pipeline.models.projector import make_projector
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.schema.pretrain import Layout, Loader, Optimizer, Pretrain, Schedule, Swa
from pipeline.training.learner import Learner, make_learner
from pipeline.training.loop import Recipe, pretrain

pytestmark = pytest.mark.slow

NUM_IMAGES, BATCH, EPOCHS = 106, 16, 9  # 6 steps an epoch, a last partial batch of 10 that is left out
BACKBONES = {"test_byobnet": {}, "test_vit": {"img_size": 16, "patch_size": 8, "dynamic_img_size": True}}
VIEWS = Multicrop(num_global=2, num_local=1, global_px=16, local_px=8, mean=[0.5] * 3, std=[0.5] * 3)


def views_in_float64(*images, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """In float32, AdamW turns the rounding of a gradient near zero into a whole step, and 50 of them into 1e-3."""
    large, small = VIEWS(*images, **options)
    return large.double(), small.double()


def watched(backbone: nn.Module, projector: nn.Module) -> dict[str, float]:
    """Describe held-out samples, which no rank shares with another."""
    with torch.no_grad():
        weight = next(projector.parameters()).mean()
    samples = torch.linspace(-2, 3, 40, dtype=torch.float64)[:, None] + weight
    return {"epps_pulley": float(epps_pulley(samples).mean())}


def new_learner(backbone: str = "test_byobnet", **choices) -> Learner:
    backbone = initial_backbone(backbone, BACKBONES[backbone], seed=0)
    projector = make_projector(backbone.num_features, hidden_dims=[16], proj_dim=8)
    return make_learner(backbone.double(), projector.double(), settings(**choices), CPU)


def settings(**choices) -> Pretrain:
    sections = {"optimizer": Optimizer(lr=3e-3), "schedule": Schedule(warmup_epochs=1, final_lr_frac=1e-3)}
    sections |= {"epochs": EPOCHS, "batch_size": BATCH, "channels_last": False, "loader": Loader(num_workers=0)}
    return Pretrain(**sections | choices)


def trained(
    folder: str,
    *,
    backbone: str = "test_byobnet",
    layout: dict | None = None,
    swa: dict | None = None,
    signal_at: int | None = None,
    batch_size: int = BATCH,
) -> dict:
    """Train and return weights and history; a signal reaches the last rank at a step."""
    chosen = {"layout": Layout(**layout or {}), "swa": Swa(**swa or {}), "batch_size": batch_size}
    objective = RunObjective(LeJEPA(num_slices=16), lamb=0.1, num_global=2, seed=0)
    last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1

    def signalled(projections: torch.Tensor, step: int, **target):
        if step == signal_at and last:
            signal.raise_signal(signal.SIGTERM)
        return objective(projections, step, **target)

    learner, watch = new_learner(backbone, **chosen), None if dist.is_initialized() and dist.get_rank() else watched
    recipe = Recipe(views_in_float64, signalled, seed=0)
    epochs = pretrain(
        learner, in_a_batch(digits(NUM_IMAGES)), settings(**chosen), recipe, device=CPU,
        autocast=choose_autocast("float32", CPU), checkpoints=Checkpoints(Path(folder), "run"), watch=watch,
    )  # fmt: skip
    try:
        history = [epoch.row() for epoch in epochs]
    except Interrupted as request:
        return {"interrupted": str(request)}
    networks = nn.ModuleList(learner.whole_networks())
    return {"weights": {name: own_part(each) for name, each in networks.state_dict().items()}, "history": history}


def on_ranks(world_size: int, place: Path, task: str, **options) -> list[dict]:
    """Run a function of this file in several processes and return what each returned."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_one_rank, args=(rank, world_size, place, task, options)) for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * world_size
    return [torch.load(place / f"{task}-{rank}.pt") for rank in range(world_size)]


def _one_rank(rank: int, world_size: int, place: Path, task: str, options: dict) -> None:
    torch.set_num_threads(1)
    meeting = place / f"{task}-meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    try:
        found = globals()[task](**options)
    except UserError as error:
        found = {"refused": str(error)}
    torch.save(found, place / f"{task}-{rank}.pt")
    dist.destroy_process_group()
    meeting.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    return trained(str(tmp_path_factory.mktemp("alone")))


def assert_same(found: dict, want: dict) -> None:
    assert found["weights"].keys() == want["weights"].keys()
    for name, value in want["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-6, atol=1e-8, msg=name)
    for mine, theirs in zip(found["history"], want["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("world_size", [pytest.param(2, marks=pytest.mark.core), 4])
def test_several_processes_are_one(tmp_path, alone, world_size):
    first, *others = on_ranks(world_size, tmp_path, "trained", folder=str(tmp_path / "states"))
    assert len(first["history"]) * 6 == 54
    assert_same(first, alone)
    for other in others:
        assert all(
            torch.equal(value, other["weights"][name])
            for name, value in first["weights"].items()
            if "running" not in name
        )


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 2)])
def test_another_number_of_processes_goes_on(tmp_path, alone, before, after):
    folder = str(tmp_path / "states")
    options = {"folder": folder, "signal_at": 20}
    ended = on_ranks(before, tmp_path, "trained", **options) if before > 1 else [trained(**options)]
    assert {found["interrupted"] for found in ended} == {
        "interrupted at step 21/54; checkpoint saved, rerun the same command to resume"
    }
    found = on_ranks(after, tmp_path, "trained", folder=folder)[0] if after > 1 else trained(folder)
    assert_same(found, alone)


SHARDED = {"sharded": True}
WITH_ALL = {"backbone": "test_vit", "swa": {"enabled": True, "decay": 0.9}}  # of blocks, with an averaged encoder


@pytest.fixture(scope="module")
def alone_with_all(tmp_path_factory) -> dict:
    return trained(str(tmp_path_factory.mktemp("alone")), **WITH_ALL)


@pytest.mark.parametrize("layout", [{}, SHARDED | {"checkpoint_activations": True, "micro_batch_size": 2}])
def test_a_transformer_on_two_processes_is_that_of_one(tmp_path, alone_with_all, layout):
    first, _ = on_ranks(2, tmp_path, "trained", folder=str(tmp_path / "states"), layout=layout, **WITH_ALL)
    assert_same(first, alone_with_all)


def test_sharded_processes_are_one_with_batchnorm(tmp_path, alone):
    first, _ = on_ranks(2, tmp_path, "trained", folder=str(tmp_path / "states"), layout=SHARDED)
    assert_same(first, alone)


@pytest.mark.parametrize("before", [2, 1])
def test_sharded_states_go_on_in_one_process_and_back(tmp_path, alone_with_all, before):
    options = WITH_ALL | {"folder": str(tmp_path / "states"), "layout": SHARDED}
    if before == 2:
        on_ranks(2, tmp_path, "trained", signal_at=20, **options)
        found = trained(**options | {"layout": {}})
    else:
        assert "interrupted" in trained(signal_at=20, **options)
        found = on_ranks(2, tmp_path, "trained", **options)[0]
    assert_same(found, alone_with_all)


def test_a_batch_that_cannot_be_shared(tmp_path):
    found = on_ranks(2, tmp_path, "trained", folder=str(tmp_path / "states"), batch_size=15)
    assert all("pretrain.batch_size must be a multiple of the 2 processes, got 15" in part["refused"] for part in found)


def stepped() -> dict:
    """Take some steps with micro-batches, a head, and a parameter that the backbone never uses."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.Tanh())
    backbone.unused = nn.Parameter(torch.ones(3, 3))
    networks = [module.double() for module in (backbone, nn.Linear(8, 4), nn.Linear(4, 4))]
    learner = make_learner(*networks[:2], settings(layout=Layout(micro_batch_size=1)), CPU, predictor=networks[2])
    views = [torch.randn(2, 4, 3, 16, 16).double(), torch.randn(1, 4, 3, 8, 8).double()]
    objective = RunObjective(LeJEPA(num_slices=8), lamb=0.1, num_global=2, seed=0)
    for step in range(4):
        projections, predictions = learner.project([group[:, share(4)] for group in views])
        learner.step(objective(projections, step, predictions=predictions)["loss"], 1e-2)
    assert backbone.unused.grad is None
    return {"weights": {f"{i}.{name}": value for i, m in enumerate(networks) for name, value in m.state_dict().items()}}


def test_micro_batches_a_head_and_an_unused_parameter(tmp_path):
    want = stepped()
    for found in on_ranks(2, tmp_path, "stepped"):
        for name, value in want["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=1e-9, atol=1e-12, msg=name)


PARTS = [5, 3]


def normalised() -> dict:
    """Normalise rows of a batch, weigh the output, and return output, gradients and running statistics."""
    torch.manual_seed(0)
    x, weigh = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    bn = nn.BatchNorm2d(4)
    nn.init.normal_(bn.weight)
    bn = synchronise(nn.Sequential(bn))[0]
    if dist.is_initialized():
        start = sum(PARTS[: dist.get_rank()])
        part = slice(start, start + PARTS[dist.get_rank()])
        x, weigh = x[part], weigh[part]
    x.requires_grad_()
    out = bn(x)
    (out * weigh).sum().backward()
    learners = {choice: new_learner(sync_batchnorm=choice) for choice in (True, False)}
    shared = {choice: is_shared(made.backbone) for choice, made in learners.items()}
    found = {"out": out.detach(), "x": x.grad, "weight": bn.weight.grad, "mean": bn.running_mean, "var": bn.running_var}
    return found | {"shared": shared}


def is_shared(backbone: nn.Module) -> bool:
    return any(isinstance(module, SyncBatchNorm) for module in backbone.modules())


def test_batch_norm_over_ranks(tmp_path):
    want = normalised()
    parts = on_ranks(2, tmp_path, "normalised")
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), want[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(part["weight"] for part in parts), want["weight"], rtol=1e-4, atol=1e-5)
    assert want["shared"] == {True: False, False: False}
    for part in parts:
        assert part["shared"] == {True: True, False: False}
        torch.testing.assert_close(part["mean"], want["mean"])
        torch.testing.assert_close(part["var"], want["var"])
