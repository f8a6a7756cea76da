"""Where and in which precision to compute."""

from __future__ import annotations

import torch

from pipeline.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn `pretrain.device` into a device: auto takes CUDA where there is one.

    Raises:
        UserError: if CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("pretrain.device is 'cuda' but no CUDA device is visible; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def choose_autocast(precision: str, device: torch.device) -> torch.autocast:
    """Turn `pretrain.precision` into an autocast context: auto is bfloat16 where CUDA has it, else float32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bfloat16" or (precision == "auto" and has_bf16)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
