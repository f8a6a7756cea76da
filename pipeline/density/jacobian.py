"""Input Jacobians of a frozen encoder, many samples and many directions in one pass.

In evaluation mode samples do not interact. So one backward pass of sum_b <c_b, f(x_b)> gives c_b^T J(x_b) for every
sample b at once, and vmap puts many directions c into one pass. Forward mode does the same with J(x_b) t_b.

Legend: B samples of P numbers each (3 H W of an image), D embedding, R rows of a Jacobian, C directions of one pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pipeline.core.seeds import generator
from pipeline.runtime.errors import UserError

Mode = Literal["auto", "forward", "reverse"]
# (sample, direction) pairs of one pass: enough to keep convolutions busy, few enough for the cache. At 32 px, P = 3072,
# this makes 341. Measured on one core, 2026-11-22, with a throwaway script: with 32 pairs a pass four of timm's test
# models took 1.2 to 1.7 times as long as with 256, with 1024 as long or up to 1.3 times.
MAX_PAIRS_TIMES_P, MIN_PAIRS, MAX_PAIRS = 2**20, 8, 4096
MIN_DIRECTIONS = 16  # of a pass, before samples are added: all directions share what the forward pass kept of a sample
MAX_BLOCK_BYTES = 2**28  # of Jacobians held at a time


class Jacobians(NamedTuple):
    """What of the Jacobians J (D, P) of consecutive samples determines their singular values.

    rows: (B, R, P), the rows of J that are not zero, in any order, or the products of `num_directions` orthonormal
    directions with J; (B, P, D), J transposed, from forward mode. Where a sample has fewer, rows of zeros fill up.
    num_living: (B,) rows of J that are not zero. num_values: min(D, P).
    """

    rows: Tensor
    num_living: Tensor
    num_values: int


def jacobians(
    encoder: nn.Module,
    inputs: Tensor,
    *,
    mode: Mode = "auto",
    chunk: int | None = None,
    num_directions: int | None = None,
    seed: int = 0,
) -> Iterator[Jacobians]:
    """Yield the input Jacobians of all samples, block after block.

    Outputs that are exactly zero may be dead, as behind a ReLU that lets nothing through; their rows are then zero.
    One extra pass with random weights over them tells (a sum of other rows with random weights vanishes with
    probability 0), and only living rows are computed: half of them for a ResNet whose last map is a single pixel.

    Args:
        encoder: (B, ...) -> (B, D) in evaluation mode; neither it nor its parameters' gradients change.
        inputs: (B, ...), float32 or float64, finite.
        mode: "reverse" takes at most D backward passes, "forward" P forward passes; "auto" whichever are fewer.
        chunk: (sample, direction) pairs of one pass, >= 1; None: by the size of the input.
        num_directions: take the products of so many random directions with J, by reverse mode, >= 1; None: J itself.
            They are the same for all samples, up to orthonormalisation within a sample's living outputs.
        seed: of these directions, >= 0.

    Raises:
        UserError: an encoder in training mode, samples that interact, a shape, number or dtype that does not fit,
            or mode "forward" where an operation of the encoder has none.
    """
    _check(encoder, inputs, chunk)
    with _linearisable(inputs.device.type):
        dim, size = _embedding(encoder(inputs[:1]), inputs[:1]).shape[1], inputs[0].numel()
        mode = "reverse" if num_directions else _choose_mode(encoder, inputs[:1], mode, dim)
    directions = None
    if num_directions:
        draws = generator(seed, "output directions")
        directions = torch.randn(dim, min(num_directions, dim), generator=draws, dtype=torch.float64).to(inputs.device)
    height, width = (min(num_directions or dim, dim), size) if mode == "reverse" else (size, dim)
    num_samples, per_pass = _sizes(chunk, size, height, height * width * inputs.itemsize)
    for block in inputs.detach().split(num_samples):
        with _linearisable(inputs.device.type):
            if mode == "reverse":
                rows, num_living = _rows(encoder, block, directions, per_pass)
            else:
                rows = _columns(encoder, block, per_pass)
                num_living = torch.full((len(block),), size, device=block.device)
        if not rows.isfinite().all():
            raise UserError("the encoder's input Jacobian must be finite, but has nan or inf; check the weights")
        yield Jacobians(rows, num_living, min(dim, size))


class _AffineBatchNorm(TorchFunctionMode):
    """Computes batch normalisation in evaluation mode as what it is then, a scale and a shift.

    Its own backward pass moves every direction's gradient to another memory layout and back; that was a third of the
    time of timm's test_resnet and test_efficientnet. Modules keep calling it, so the encoder need not be changed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace that one function."""
        return (_batch_norm if func is functional.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:  # timm standardises convolution weights with it
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = torch.rsqrt(running_var + eps) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - running_mean * scale
    along_channels = (-1, *[1] * (input.ndim - 2))
    return input * scale.view(along_channels) + shift.view(along_channels)


@contextmanager
def _linearisable(device_type: str) -> Iterator[None]:
    """Compute in full precision, without gradients of parameters, and with attention that vmap and jvp understand."""
    full_precision = torch.autocast(device_type, enabled=False), torch.backends.cudnn.flags(True, allow_tf32=False)
    with torch.no_grad(), full_precision[0], full_precision[1], sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # The first use of forward mode loads code of torch that warns about torch itself.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
        with _AffineBatchNorm():
            yield


def _check(encoder: nn.Module, inputs: Tensor, chunk: int | None) -> None:
    if training := [name or type(encoder).__name__ for name, module in encoder.named_modules() if module.training]:
        raise UserError(f"the encoder must be in evaluation mode, but {training[0]} trains; call encoder.eval()")
    if inputs.ndim < 2 or not inputs.numel() or inputs.dtype not in (torch.float32, torch.float64):
        shape = tuple(inputs.shape)
        raise UserError(f"images must be (B, ...), not empty, float32 or float64, got {inputs.dtype} of shape {shape}")
    weights = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), inputs.dtype)
    if weights != inputs.dtype:
        raise UserError(f"images must have the encoder's dtype, got {inputs.dtype} for {weights}; convert either")
    if not inputs.isfinite().all():
        raise UserError("images must be finite, got nan or inf; check their normalisation")
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk must be >= 1, got {chunk}")


def _embedding(embedding: Any, inputs: Tensor) -> Tensor:
    if not isinstance(embedding, Tensor) or embedding.ndim != 2 or len(embedding) != len(inputs):
        found = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
        raise UserError(f"the encoder must give (B, D) with B = {len(inputs)}, got {found}; pool its output")
    if not embedding.isfinite().all():
        raise UserError("the encoder's embeddings must be finite, but have nan or inf; check the weights")
    return embedding


def _choose_mode(encoder: nn.Module, inputs: Tensor, mode: str, dim: int) -> str:
    if mode not in ("auto", "forward", "reverse"):
        raise UserError(f"mode must be auto, forward or reverse, got {mode!r}")
    if mode == "reverse" or (mode == "auto" and dim <= inputs[0].numel()):
        return "reverse"
    try:
        jvp(encoder, (inputs,), (inputs,))
    except NotImplementedError as error:
        reason = str(error).partition("\n")[0]
        if mode == "forward":
            raise UserError(f"mode 'forward' does not work for this encoder: {reason}; use mode 'reverse'") from None
        warnings.warn(f"reverse mode instead of forward mode, which would be faster: {reason}", stacklevel=4)
        return "reverse"
    return "forward"


def _sizes(chunk: int | None, size: int, num_directions: int, num_bytes: int) -> tuple[int, int]:
    """Return how many samples make a block and how many directions a pass; a sample's Jacobian has `num_bytes`."""
    pairs = chunk or min(max(MAX_PAIRS_TIMES_P // size, MIN_PAIRS), MAX_PAIRS)
    num_samples = max(1, min(pairs // min(num_directions, MIN_DIRECTIONS), MAX_BLOCK_BYTES // num_bytes))
    return num_samples, max(1, pairs // num_samples)


def _rows(encoder: nn.Module, inputs: Tensor, directions: Tensor | None, per_pass: int) -> tuple[Tensor, Tensor]:
    """Return the living rows of J, or its products with directions (D, R), as (B, R, P), and how many live, (B,)."""
    embedding, pull = vjp(encoder, inputs)
    living = ~_dead_outputs(_embedding(embedding, inputs), pull)
    num_living = living.sum(1)
    if directions is None:
        outputs = living.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(num_living.max())]
        cotangents = functional.one_hot(outputs, living.shape[1]).transpose(0, 1)
    else:
        # With more directions than living outputs the superfluous ones lie in the dead outputs and give rows of zeros.
        cotangents = torch.linalg.qr(directions * living[:, :, None]).Q.permute(2, 0, 1)
    rows = inputs.new_empty(len(inputs), len(cotangents), inputs[0].numel())
    for some, part in zip(cotangents.split(per_pass), rows.split(per_pass, 1), strict=True):
        part.copy_(vmap(pull)(some.to(inputs.dtype))[0].flatten(2).transpose(0, 1))
    return rows, num_living


def _dead_outputs(embedding: Tensor, pull: Any) -> Tensor:
    """Tell which outputs have a gradient of exactly zero, (B, D), and refuse samples that interact."""
    weights = torch.randn(embedding.shape, generator=generator(0, "probing direction")).to(embedding)
    suspects = embedding == 0
    of_first = weights.clone()
    of_first[1:] = 0
    (gradients,) = vmap(pull)(torch.stack([weights * suspects, of_first]))
    silent, elsewhere = (gradients[0].flatten(1) == 0).all(1), gradients[1, 1:]
    _refuse_interaction(elsewhere)
    return suspects & silent[:, None]


def _columns(encoder: nn.Module, inputs: Tensor, per_pass: int) -> Tensor:
    """Return the transposed Jacobians, (B, P, D)."""
    size, found = inputs[0].numel(), []

    def push(tangents: Tensor) -> Tensor:
        return vmap(lambda tangent: jvp(encoder, (inputs,), (tangent,))[1])(tangents)

    if len(inputs) > 1:
        alone = torch.zeros_like(inputs)
        alone[0] = torch.randn(inputs[0].shape, generator=generator(0, "probing direction")).to(inputs)
        _refuse_interaction(push(alone[None])[0, 1:])
    for members in torch.arange(size, device=inputs.device).split(per_pass):
        directions = functional.one_hot(members, size).to(inputs.dtype).unflatten(1, inputs.shape[1:])
        found.append(push(directions[:, None].expand(-1, len(inputs), *inputs.shape[1:])))
    return torch.cat(found).transpose(0, 1)


def _refuse_interaction(derivatives: Tensor) -> None:
    if (derivatives.abs() > 0).any():  # nan is told of where rows are checked
        raise UserError("the encoder must treat samples one by one, but one sample changes another's embedding")
