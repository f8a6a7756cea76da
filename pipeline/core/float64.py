"""Double precision where the device may have none."""

from __future__ import annotations

from torch import Tensor

LACKING = ("mps",)  # Apple GPUs


def doubled(values: Tensor) -> Tensor:
    """Return values in float64, on the CPU where their device has no such numbers."""
    return values.cpu().double() if values.device.type in LACKING else values.double()
