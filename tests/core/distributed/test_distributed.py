"""Claims about several processes (2 and 4 gloo ranks on the CPU), with equal and unequal batches per rank:

1. Every statistic and every objective have, on every rank, the value of one process on the concatenated batch.
2. Averaged over ranks, as DistributedDataParallel does, the gradients are those of one process.
3. All ranks draw the same directions.
4. A step of a small model under DistributedDataParallel is the step of one process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipeline.core.distributed.collectives import gather_samples, mean_over_ranks
from pipeline.losses.lejepa import directions_for_step, epps_pulley, lejepa_loss, sigreg
from pipeline.losses.objective import OBJECTIVES, RunObjective
from pipeline.losses.projected import Objective
from pipeline.losses.univariate import STATISTICS, statistic_by_name

pytestmark = pytest.mark.slow

DIM, NUM_SLICES, NUM_VIEWS = 3, 7, 3
SIZES = {2: ([4, 4], [3, 6]), 4: ([2, 2, 2, 2], [5, 1, 2, 3])}


def inputs(num_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(NUM_VIEWS, num_samples, DIM, generator=generator, dtype=torch.float64)


def objective_loss(z: torch.Tensor, objective: type[Objective]) -> torch.Tensor:
    """Loss of an objective; what stands for head, averaged encoder and labels follows from the projections."""
    run = RunObjective(objective(), lamb=0.3, num_global=2, seed=1)
    return run(z, 7, predictions=z.pow(3), targets=z[:2].detach().cos(), labels=z[0].argmax(-1))["loss"]


A = directions_for_step(3, 11, DIM, NUM_SLICES, dtype=torch.float64)
# Every loss that claims to be that of the global batch, as a function of the projections.
LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{name: partial(statistic_by_name(name), directions=A) for name in STATISTICS},
    **{f"objective {name}": partial(objective_loss, objective=objective) for name, objective in OBJECTIVES.items()},
    "epps_pulley of samples": lambda z: epps_pulley(z @ A, num_knots=8).mean(),
    "sigreg in float32": lambda z: sigreg(z.float(), A),
    "mean_over_ranks": lambda z: mean_over_ranks(z.square()),
    "gather_samples": lambda z: gather_samples(z).pow(3).sum(),
    "lejepa_loss": lambda z: lejepa_loss(z, A, num_global=2, lamb=0.05).loss,
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, 5), nn.Tanh(), nn.Linear(5, DIM)).double()


def train(network: nn.Module, batch: torch.Tensor, num_steps: int = 2) -> torch.Tensor:
    """Take a few steps; return all parameters."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for step in range(num_steps):
        optimizer.zero_grad()
        a = directions_for_step(0, step, DIM, NUM_SLICES, dtype=torch.float64)
        lejepa_loss(network(batch), a, num_global=2, lamb=0.3).loss.backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def measure(sizes: list[int], rank: int) -> dict:
    """Values, gradients by the rows of this rank, directions, and parameters after training."""
    start = sum(sizes[:rank])
    rows = slice(start, start + sizes[rank])
    values, grads = {}, {}
    for name, loss in LOSSES.items():
        z = inputs(sum(sizes))[:, rows].requires_grad_()
        value = loss(z)
        value.backward()
        values[name], grads[name] = value.item(), z.grad
    network = model()
    if dist.is_initialized():
        network = nn.parallel.DistributedDataParallel(network)
    trained = train(network, inputs(sum(sizes))[:, rows])
    return {
        "values": values,
        "grads": grads,
        "directions": directions_for_step(3, 11, DIM, NUM_SLICES),
        "trained": trained,
    }


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save([measure(sizes, rank) for sizes in SIZES[world]], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=sorted(SIZES))
def ranks(request, tmp_path_factory) -> tuple[int, list[list[dict]]]:
    """What each rank measured, for each of the two ways to divide the batch."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")
    # Imported once, then forked: DDP and the optimisers import torch._dynamo.
    context.set_forkserver_preload(["torch._dynamo", "pipeline.losses.univariate"])
    processes = [context.Process(target=worker, args=(rank, world, str(folder))) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()  # a rank that waits for one that failed
    assert [process.exitcode for process in processes] == [0] * world
    return world, [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("division", [0, 1], ids=["equal", "unequal"])
def test_ranks_equal_one_process(ranks, division):
    world, measured = ranks
    sizes = SIZES[world][division]
    parts = [per_division[division] for per_division in measured]
    single = measure([sum(sizes)], 0)
    for part in parts:
        assert torch.equal(part["directions"], single["directions"])
        assert part["values"] == pytest.approx(single["values"], rel=1e-6)
        torch.testing.assert_close(part["trained"], single["trained"], rtol=1e-10, atol=1e-12)
    for name, want in single["grads"].items():
        # Each rank holds world * d(value)/d(its rows): DDP's average divides by the world size.
        got = torch.cat([part["grads"][name] for part in parts], dim=1) / world
        tolerance = 1e-5 if "float32" in name else 1e-9
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max().item(), msg=name)
