"""Input Jacobians of a frozen encoder, many samples and many directions in one pass.

Samples do not interact in evaluation mode. So one backward pass of sum_b <c_b, f(x_b)> gives c_b^T J(x_b) for every
sample b at once, and vmap puts many directions c into one pass. Forward mode does the same with J(x_b) t_b.

Legend: B samples of P numbers each (3 H W of an image), D embedding, C directions of one pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError

Mode = Literal["auto", "forward", "reverse"]
# (sample, direction) pairs of one pass: enough to keep convolutions busy, few enough for the cache. Measured at 32 px
# (P = 3072) on two cores with 2 MiB of second-level cache: 256 to 512 were fastest, 32 and 1024 up to 1.5 times slower.
PAIRS_TIMES_INPUT, MIN_PAIRS, MAX_PAIRS = 2**20, 8, 4096
MIN_DIRECTIONS = 16  # a pass; with fewer the elementwise work on what the forward pass kept is not shared
MAX_BLOCK_BYTES = 2**28  # Jacobians that are held at a time


class Jacobians(NamedTuple):
    """Jacobians of consecutive samples, up to the order of their rows and up to rows of zeros.

    rows: (B, R, P) with reverse mode, (B, P, D), transposed, with forward mode. num_values: singular values of each.
    """

    rows: Tensor
    num_values: int


def jacobians(encoder: nn.Module, inputs: Tensor, *, mode: Mode, chunk: int | None = None) -> Iterator[Jacobians]:
    """Yield the input Jacobians of all samples, a block of samples at a time.

    Args:
        encoder: (B, ...) -> (B, D) in evaluation mode; its parameters get no gradient and it is not changed.
        inputs: (B, ...), float32 or float64, finite.
        mode: "reverse" takes D backward passes a sample, "forward" P forward passes; "auto" whichever are fewer.
        chunk: (sample, direction) pairs of one pass, >= 1; None: by the size of the input.

    Raises:
        UserError: an encoder in training mode, samples that interact, shapes or numbers that do not fit, or
            mode "forward" where an operation of the encoder has no forward mode.
    """
    check_inputs(encoder, inputs)
    with linearisable(inputs.device.type):
        dim, size = _embed(encoder, inputs[:1]).shape[1], inputs[0].numel()
        if mode == "auto":
            mode = "reverse" if dim <= size else _forward_or_reverse(encoder, inputs[:1])
        elif mode == "forward":
            _check_forward_mode(encoder, inputs[:1])
        elif mode != "reverse":
            raise UserError(f"mode must be auto, forward or reverse, got {mode!r}")
    num_samples, num_directions = _sizes(chunk, size, dim if mode == "reverse" else size, dim * size * inputs.itemsize)
    first = 0
    for block in inputs.split(num_samples):
        with linearisable(inputs.device.type):
            if mode == "reverse":
                rows = _reverse(encoder, block, num_directions, first)
            else:
                rows = _forward(encoder, block, num_directions, first)
        yield Jacobians(rows, min(dim, size))
        first += len(block)


def output_sketches(encoder: nn.Module, inputs: Tensor, directions: Tensor, *, chunk: int | None) -> Iterator[Tensor]:
    """Yield directions^T J, (B, S, P), for output directions (D, S), a block of samples at a time; see `jacobians`."""
    raise NotImplementedError
