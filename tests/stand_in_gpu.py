"""A CUDA device that is played by the CPU: tensors that say `cuda`, with real values, forwards and backwards.

torch's FakeTensorMode carries no values, so it cannot go on after the first decision that depends on one, and its
backward pass does not run without CUDA. Here a tensor keeps its values in CPU memory and has the dispatch keys, the
`device` and the `is_cuda` of a GPU's. Operations run on the CPU after the device rules of CUDA were checked:

- all tensors of an operation lie on one device; allowed are CPU scalars (0-dim) and CPU indices, as torch allows them;
- a generator is one of the device that is drawn on;
- what would make the host wait for the device is noted, with the line of the project that asked for it.

Not played: kernels, streams, memory, rounding, autocast (for which fake tensors serve), forward mode.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

GPU = torch.device("cuda", 0)
CLONE = Path(__file__).parents[1]
aten = torch.ops.aten
# A GPU's tensor takes indices and sources of copies from the CPU.
MIXING = {
    aten.copy_,
    aten._to_copy,
    aten.index,
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten._foreach_copy_,
}
# Sizes or values that the host must know.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim}
WAITING |= {aten.unique_consecutive, aten.bincount, aten.is_nonzero, aten.repeat_interleave}
Getter = Callable[[Tensor], Any]


class OnGPU(Tensor):
    """A tensor that says that it lies on the GPU."""

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> OnGPU:
        tensor = Tensor._make_subclass(cls, held, requires_grad, device_for_backend_keys=GPU)
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda _: GPU)
    is_cuda = property(lambda _: True)
    is_cpu = property(lambda _: False)

    def __deepcopy__(self, memo: dict) -> OnGPU:
        """Copy the values, once."""
        copied = memo[id(self)] = OnGPU(self.held.clone(), self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return copied

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check the devices, compute on the CPU."""
        kwargs = kwargs or {}
        tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
        strangers = [t for t in tensors if not isinstance(t, OnGPU) and t.ndim]
        kind = getattr(func, "overloadpacket", func)
        if kind is aten._has_compatible_shallow_copy_type:
            return False
        if strangers and (kind not in MIXING or not isinstance(tensors[0], OnGPU)):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func}, {[tuple(t.shape) for t in strangers]} on the CPU)"
            )
        if kind in WAITING:
            StandInGPU.note(str(kind))
        owners = {id(t.held): t for t in tensors if isinstance(t, OnGPU)}
        held_args, held_kwargs = tree_map_only(OnGPU, lambda t: t.held, (args, kwargs))
        found = func(*held_args, **held_kwargs)
        if kind in (aten._local_scalar_dense, aten.equal, aten.is_nonzero):
            return found
        return tree_map_only(Tensor, lambda t: owners[id(t)] if id(t) in owners else OnGPU(t), found)


class Generator(torch.Generator):
    """A generator of either device; both draw the CPU's numbers."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        """Make it; see torch.Generator."""
        made = super().__new__(cls)
        made.of = torch.device(device)
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Do nothing more."""

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.of


def whose(tensor: Any) -> torch.device:
    """Return the device of a tensor, also inside of vmap, vjp and jvp."""
    while isinstance(tensor, Tensor) and not isinstance(tensor, OnGPU):
        if not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return torch.device("cpu")
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return GPU


class StandInGPU(TorchFunctionMode):
    """Plays a GPU for what is called by its name; `waits` are the lines that would make the host wait."""

    waits: ClassVar[list[str]] = []

    @classmethod
    def note(cls, why: str) -> None:
        """Note a wait, with the innermost line of the project."""
        lines = [f for f in traceback.extract_stack() if f.filename.startswith(str(CLONE / "pipeline"))]
        where = f"{Path(lines[-1].filename).relative_to(CLONE)}:{lines[-1].lineno} {lines[-1].line}" if lines else "?"
        cls.waits.append(f"{where} ({why})")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the CPU do what is asked of the GPU."""
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func == Tensor.device.__get__:  # a new object at every look
            return whose(first)
        if func in (Tensor.is_cuda.__get__, Tensor.is_cpu.__get__):
            return (func == Tensor.is_cuda.__get__) == (whose(first) == GPU)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self.moved(func, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and whose(first) == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.tolist and whose(first) == GPU:
            self.note("tolist")
            return func(first.held)
        if func is functional.one_hot and whose(first) == GPU:  # makes a tensor itself, and would make it on the CPU
            return OnGPU(func(first.held, *args[1:], **kwargs))
        if func is Tensor.new_tensor and whose(first) == GPU:
            self.note("new_tensor of host numbers")
            return OnGPU(torch.tensor(args[1], dtype=first.dtype))
        asked = kwargs.get("device")
        on_gpu = asked is not None and torch.device(asked).type == "cuda"
        if on_gpu:
            kwargs["device"] = "cpu"
        if isinstance(generator := kwargs.get("generator"), Generator):
            drawn_on = GPU if on_gpu or (isinstance(first, Tensor) and whose(first) == GPU) else torch.device("cpu")
            if generator.device.type != drawn_on.type:
                raise RuntimeError(
                    f"Expected a '{drawn_on.type}' device type for generator but found '{generator.device.type}'"
                )
        found = func(*args, **kwargs)
        if on_gpu:
            if isinstance(first, Tensor) and isinstance(found, OnGPU):
                return found
            if isinstance(first, list | tuple) and func is torch.tensor:
                self.note("torch.tensor of host numbers")
            return OnGPU(found.detach(), found.requires_grad)
        return found

    def moved(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Copy between the devices, and note what waits for it."""
        like = args[0] if args and isinstance(args[0], Tensor) else None
        if func is Tensor.cpu:
            device, dtype, non_blocking = torch.device("cpu"), None, False
        elif func is Tensor.cuda:
            device, dtype, non_blocking = GPU, None, kwargs.get("non_blocking", False)
        elif like is not None:
            device, dtype, non_blocking = whose(like), like.dtype, kwargs.get("non_blocking", False)
        else:
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        here = whose(tensor)
        device = here if device is None else device
        how = {name: kwargs[name] for name in ("memory_format", "copy") if name in kwargs}
        if device.type == here.type:
            return tensor.to(dtype or tensor.dtype, **how)
        if not non_blocking or (device.type == "cuda" and not getattr(tensor, "pinned", False)):
            self.note(f"copy to {device.type}")
        return Crossing.apply(tensor, device.type == "cuda").to(dtype or tensor.dtype, **how)


class Crossing(torch.autograd.Function):
    """A differentiable copy from one device to the other."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, to_gpu: bool) -> Tensor:
        ctx.to_gpu = to_gpu
        return OnGPU(tensor.clone()) if to_gpu else tensor.held.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient.held.clone() if ctx.to_gpu else OnGPU(gradient.clone())), None


def _pinned(tensor: Tensor) -> Tensor:
    tensor.pinned = True
    return tensor


class _Stream:
    @staticmethod
    def query() -> bool:
        return True


@contextmanager
def as_if_cuda() -> Iterator[None]:
    """Say that there is a GPU; SIGReg's kernels are the plain ones, caches of constants empty before and afterwards."""
    from pipeline.data.views import colour
    from pipeline.losses import blocks, harmonics, lejepa, visreg

    caches = (harmonics.product_tables, lejepa._knots, visreg._quantiles, colour._shifts)
    for cache in caches:
        cache.cache_clear()
    replaced = [
        patch.object(torch, "Generator", Generator),
        patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        patch.object(torch.cuda, "is_bf16_supported", lambda: True),
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        patch.object(torch.cuda, "current_stream", lambda _: _Stream),
        patch.object(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True),
        patch.object(torch.cuda, "synchronize", lambda _: None),
        patch.object(Tensor, "pin_memory", _pinned),
        patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None),
        patch.object(blocks, "_engine", lambda _: blocks.FactoredBlock),
    ]
    for change in replaced:
        change.start()
    try:
        yield
    finally:
        for change in replaced:
            change.stop()
        for cache in caches:
            cache.cache_clear()


@contextmanager
def stand_in_gpu() -> Iterator[StandInGPU]:
    """Play a GPU."""
    StandInGPU.waits = []
    with as_if_cuda(), StandInGPU() as gpu:
        yield gpu
