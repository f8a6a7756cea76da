"""Load of the machine while a cell trains: CPU, memory and NVIDIA GPUs, under MLflow's names of system metrics."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import psutil

SECONDS = 5.0
"""Between two samples."""
LEAST_S = 0.1
"""Of less time psutil knows no load; so short are only epochs that are read back from a checkpoint."""


class UsageSampler:
    """Samples from a thread of its own; `epoch` returns the means since the epoch began."""

    def __init__(self, interval_s: float = SECONDS) -> None:
        """Start sampling."""
        self._begun = self._asked = time.monotonic()
        self._samples, self._lock = defaultdict[str, list[float]](list), threading.Lock()
        self._gpus: list[Any] = []
        self._ended = threading.Event()
        psutil.cpu_percent()  # of the time since the last call; the first has none
        self._thread = threading.Thread(target=self._run, args=[interval_s], name="usage", daemon=True)
        self._thread.start()

    def _run(self, interval_s: float) -> None:
        self._gpus = _gpus()
        while not self._ended.wait(interval_s):
            self._sample()

    def _sample(self) -> None:
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
        }
        for index, gpu in enumerate(self._gpus):
            found |= {f"gpu_{index}_{name}": value for name, value in _gpu_load(gpu).items()}
        with self._lock:
            for name, value in found.items():
                self._samples[name].append(value)

    def epoch(self, number: int) -> dict[str, float]:
        """Return an epoch's means of its samples, and its end in seconds since training began.

        Empty of an epoch that was read back.
        """
        now = time.monotonic()
        if now - self._asked < LEAST_S:
            return {}
        self._sample()
        with self._lock:
            means = {name: round(sum(values) / len(values), 2) for name, values in self._samples.items()}
        return {"epoch": number, "elapsed_s": round(now - self._begun, 2), **means}

    def resume(self) -> None:
        """Let the next epoch begin now: what was done since the last call was no training."""
        psutil.cpu_percent()
        self._asked = time.monotonic()
        with self._lock:
            self._samples.clear()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


def _gpus() -> list[Any]:
    """Return NVML's handles of the GPUs; none without the driver."""
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return []


def _gpu_load(gpu: Any) -> dict[str, float]:
    """Return how busy one GPU is and how full its memory; what a device does not tell is left out."""
    import pynvml

    found: dict[str, float] = {}
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        found["memory_usage_megabytes"] = memory.used / 1e6
        found["memory_usage_percentage"] = 100 * memory.used / memory.total
    with suppress(pynvml.NVMLError):
        found["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    return found
