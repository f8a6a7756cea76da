"""Networks of which every process holds a part: weights, gradients, moments and averages (FSDP2).

The parts of a block are put together for its pass and forgotten after it. Gradients are averaged over ranks, as
DistributedDataParallel does (`collectives` has the convention). States are kept whole, in the format of one process.
What is divided is a DTensor; torch imports these and FSDP2 for seconds, so this module does where they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pipeline.core.distributed.collectives import rank, world_size

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(networks: Iterable[nn.Module], device: torch.device) -> None:
    """Divide the parameters of networks over all processes, in place: those of each block, then the others.

    Parameters become others: optimisers are made afterwards, `synchronise` and copies come before.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Of pooled embeddings: the projector changes none in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    for network in networks:
        for module in (*blocks(network), network):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer or the stages of a convolutional network, which hold nearly all parameters."""
    chains = [child for child in network.children() if isinstance(child, nn.Sequential | nn.ModuleList)]
    members = [member for chain in chains for member in chain]
    lists = [member for member in members if isinstance(member, nn.ModuleList)]  # of blocks, which it does not call
    found = [member for member in members if member not in lists and list(member.children())]
    return [*found, *(block for chain in lists for block in chain if list(block.children()))]


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` divided a network."""
    return any(_is_divided(parameter) for parameter in network.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of one that is not divided. Changes of it change the tensor."""
    return tensor.to_local() if _is_divided(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together on every process, which all call it; one that is not divided as it is."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor


def whole_state(part: nn.Module | torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of a network or optimiser as one process has it; all processes call it, rank 0 gets it.

    Divided tensors are put together one at a time, on the CPU; None stands for them on the other ranks.
    """
    return tree_map(_on_first_rank, part.state_dict())


def load_whole_state(part: nn.Module | torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a state of `whole_state` or of one process, which every rank has."""
    if isinstance(part, nn.Module):
        own = part.state_dict()
        part.load_state_dict({name: _divided(tensor, own[name]) for name, tensor in state.items()})
        return
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _divided(tensor, parameters[index]) for name, tensor in named.items()}
        for index, named in state["state"].items()
    }
    part.load_state_dict(state | {"state": moments})


def _is_divided(value: Any) -> TypeGuard[DTensor]:
    return hasattr(value, "full_tensor")


def _on_first_rank(value: Any) -> Any:
    if not _is_divided(value):
        return value
    found = value.full_tensor()
    return None if rank() else found.cpu()


def _divided(tensor: Tensor, like: Tensor) -> Tensor:
    if not _is_divided(like) or tensor.shape != like.shape:  # a buffer, or the step of AdamW
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
