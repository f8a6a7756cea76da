"""Choice of device and precision."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from typing import Any

import torch

from pipeline.core.distributed import collectives
from pipeline.runtime.errors import UserError
from pipeline.runtime.provenance import cpu_name

BF16_CAPABILITY = (8, 0)  # from here on (Ampere) in hardware; torch emulates it on older GPUs, many times slower


def choose_device(name: str, *, exact: bool = False, quiet: bool = False) -> torch.device:
    """Turn `pretrain.device` into a device: auto takes CUDA, then an Apple GPU, then the CPU.

    Under torchrun a rank takes its own GPU. A GPU of this machine that torch cannot use is named on stderr, with the
    reason.

    Args:
        name: auto, cuda, mps or cpu.
        exact: for work in float64, which goes to the CPU where the device has none.
        quiet: say nothing.

    Raises:
        UserError: what is asked for is absent.
    """
    if name == "cpu":
        return torch.device("cpu")
    trouble = "" if name == "mps" else _cuda_trouble()
    if name == "cuda" and trouble:
        seen = "usable" if torch.cuda.is_available() else "visible"
        raise UserError(
            f"pretrain.device is 'cuda' but no CUDA device is {seen}; set it to 'auto' or 'cpu' ({trouble})"
        )
    if name in ("auto", "cuda") and not trouble:
        return _own_gpu()
    if not torch.backends.mps.is_available():
        if name == "mps":
            raise UserError("pretrain.device is 'mps' but torch finds no Apple GPU here; set it to 'auto' or 'cpu'")
        if not quiet and (gpu := _nvidia_gpu()):
            _say(f"WARNING: this machine has a GPU ({gpu}) that torch cannot use: {trouble}; computing on the CPU")
        return torch.device("cpu")
    if (processes := collectives.started()) > 1:
        raise UserError(
            f"pretrain.layout.processes must be 1 on an Apple GPU, got {processes}; lower it or set device: cpu"
        )
    if exact and not quiet:
        _say("this is computed in float64, which Apple GPUs lack: it runs on the CPU")
    return torch.device("cpu" if exact else "mps")


def choose_autocast(precision: str, device: torch.device) -> torch.autocast:
    """Turn `pretrain.precision` into an autocast context: auto is bfloat16 where a GPU has it in hardware."""
    in_hardware = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    enabled = precision == "bfloat16" or (precision == "auto" and in_hardware)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def found(device: torch.device, autocast: torch.autocast) -> dict[str, Any]:
    """Return the device's name, precision and threads: what a result was computed with."""
    return {
        "device_name": _device_name(device),
        "precision": "bfloat16" if autocast._enabled else "float32",
        "num_threads": torch.get_num_threads(),
    }


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory this process has had so far, in MiB: of the GPU, or on a CPU that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def announced(precision: str, device: torch.device) -> torch.autocast:
    """Choose as `choose_autocast` does, and print what a stage computes with, on the first rank."""
    autocast = choose_autocast(precision, device)
    facts = found(device, autocast)
    told = facts["precision"]
    if device.type == "cuda" and told == "bfloat16" and torch.cuda.get_device_capability(device) < BF16_CAPABILITY:
        told += ", which this GPU emulates slowly (pretrain.precision: float32 is faster)"
    if not collectives.rank():
        print(f"device {device} ({facts['device_name']}), {told}, {facts['num_threads']} threads", flush=True)
    return autocast


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"Apple GPU of {cpu_name()}" if device.type == "mps" else cpu_name()


def _own_gpu() -> torch.device:
    """Return the GPU of this rank, the first one for a process alone."""
    if collectives.started() == 1:
        return torch.device("cuda")
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and "LOCAL_RANK" not in os.environ:
        raise UserError(
            "WORLD_SIZE is set but LOCAL_RANK, the GPU of this process, is not; start the processes with torchrun, or "
            "unset WORLD_SIZE and set pretrain.layout.processes"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= num_gpus:
        raise UserError(
            f"pretrain.layout.processes must be <= the {num_gpus} GPUs of this machine, "
            f"got process {local_rank + 1}; lower it"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", torch.cuda.current_device())


def _cuda_trouble() -> str:
    """Say why CUDA cannot be used, "" if it can."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            return f"torch {torch.__version__} is a build without CUDA (https://pytorch.org/get-started has others)"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.split(",")[0].strip() in ("", "-1"):
            return f"CUDA_VISIBLE_DEVICES={hidden!r} hides it"
    try:
        torch.cuda.init()  # says what is_available does not: driver too old, device in use by another process
        capability = torch.cuda.get_device_capability()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().partition("\n")[0]
    if not torch.cuda.is_available():
        return "torch finds no device"
    built = [arch.partition("_") for arch in torch.cuda.get_arch_list()]
    kinds = [(kind, divmod(int(number.rstrip("af")), 10)) for kind, _, number in built if kind in ("sm", "compute")]
    fits = [
        built_for <= capability and (kind == "compute" or built_for[0] == capability[0]) for kind, built_for in kinds
    ]
    if kinds and not any(fits):
        told = ", ".join("{}.{}".format(*built_for) for _, built_for in kinds)
        return "its capability {}.{} is not among those of this build of torch: {}".format(*capability, told)
    return ""


def _nvidia_gpu() -> str:
    """Return the first GPU that nvidia-smi lists, "" without any."""
    if not (program := shutil.which("nvidia-smi")):
        return ""
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")), "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
