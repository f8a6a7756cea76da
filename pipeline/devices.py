"""Where and in which precision to compute."""

from __future__ import annotations

import os

import torch

from pipeline.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn `pretrain.device` into a device: auto takes CUDA where there is one, under torchrun the rank's own.

    Raises:
        UserError: if CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("pretrain.device is 'cuda' but no CUDA device is visible; set it to 'auto' or 'cpu'")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name
    if chosen == "cuda" and "LOCAL_RANK" in os.environ:
        local_rank, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= num_gpus:
            raise UserError(
                f"pretrain.layout.processes must be <= the {num_gpus} GPUs of this machine, "
                f"got process {local_rank + 1}; lower it"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(chosen)


def choose_autocast(precision: str, device: torch.device) -> torch.autocast:
    """Turn `pretrain.precision` into an autocast context: auto is bfloat16 where CUDA has it, else float32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bfloat16" or (precision == "auto" and has_bf16)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
