"""Processes that decode batches into memory which they share with this one and which is used again and again.

torch's DataLoader takes fresh memory for every batch: to have the system clear and map its pages takes about half as
long as to decode small pictures. ProcessPoolExecutor hands jobs over by threads, which take the cores from the decoders
(both measured: reports/LOG.md, 2026-11-22).
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import signal
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import Connection
from multiprocessing.heap import BufferWrapper
from multiprocessing.pool import ExceptionWithTraceback
from selectors import EVENT_READ, DefaultSelector

import numpy as np
import torch

from pipeline.data.packed import PackedSplit
from pipeline.runtime.errors import UserError

AHEAD = 2  # batches of each worker that are being decoded or wait for it


def decoded_by_workers(
    images: PackedSplit, batches: Iterator[torch.Tensor], num_workers: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, np.ndarray, torch.Tensor]]:
    """Yield (pixels (B, C, H, W) uint8, aspects (B,) float32, indices (B,) int64) of each batch, in their order.

    Args:
        images: what is decoded.
        batches: indices (B,) int64 of images; no batch is larger than the first.
        num_workers: processes, >= 1. Each batch goes to the one that has the fewest.
        device: where the pixels go next; for CUDA they are in pinned memory.

    Raises:
        UserError: a process was killed.
        Exception: whatever a process met, when the turn of its batch has come.
    """
    first = next(batches, None)
    if first is None:
        return
    num_slots = AHEAD * num_workers + 2  # a caller holds one batch, or two while it takes the next
    slots = _Slots(num_slots, len(first), images.channels, *images.size_px)
    jobs, ahead, done = chain([first], batches), deque(), {}
    workers = _Workers()
    try:
        for _ in range(num_workers):
            workers.start(images, slots)
        while True:
            for indices in islice(jobs, min(AHEAD * num_workers - len(ahead), len(slots.free))):
                slot = slots.free.popleft()
                workers.begin(slot, indices.numpy())
                ahead.append((slot, indices))
            if not ahead:
                return
            slot, indices = ahead.popleft()
            while slot not in done:
                done.update(workers.finished())
            aspects = done.pop(slot)
            if isinstance(aspects, Exception):
                raise aspects
            yield slots.take(slot, len(indices), device), aspects, indices
    finally:
        workers.close()


class _Slots:
    """Shared memory for batches. Its pages are made when they are first written to, which RawArray does at once."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.buffer, self.free = shape, BufferWrapper(math.prod(shape)), deque(range(shape[0]))

    def pixels(self) -> torch.Tensor:
        return torch.frombuffer(self.buffer.create_memoryview(), dtype=torch.uint8).view(self.shape)

    def take(self, slot: int, num_images: int, device: torch.device) -> torch.Tensor:
        """Return pixels on their way to a device: the slot itself, free again when nobody holds it, or a copy."""
        pixels = self.pixels()[slot, :num_images]
        if self.free and device.type == "cpu":
            lent = pixels.numpy()
            weakref.finalize(lent, self.give_back, slot).atexit = False  # by its reference to us the memory lives on
            return torch.from_numpy(lent)
        pixels = pixels.clone() if device.type == "cpu" else pixels.pin_memory()
        self.give_back(slot)
        return pixels

    def give_back(self, slot: int) -> None:
        self.free.append(slot)


class _Workers:
    """The processes. Messages are bytes: indices and a slot there; aspects back, or nothing and then an exception."""

    def __init__(self) -> None:
        self.processes: list[multiprocessing.Process] = []
        self.begun: dict[Connection, deque[int]] = {}  # the slots that each has, in the order of its answers
        self.selector = DefaultSelector()
        atexit.register(self.close)  # a loop may be left without an end; multiprocessing would wait for them

    def start(self, images: PackedSplit, slots: _Slots) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_work, args=(theirs, images, slots), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self.processes.append(process)
        self.begun[ours] = deque()
        self.selector.register(ours, EVENT_READ)

    def begin(self, slot: int, indices: np.ndarray) -> None:
        connection = min(self.begun, key=lambda one: len(self.begun[one]))
        with _loss_told():
            connection.send_bytes(np.append(indices, slot))
        self.begun[connection].append(slot)

    def finished(self) -> Iterator[tuple[int, np.ndarray | Exception]]:
        """Yield the slots that are done, once there is one, with their aspects."""
        for connection in _ready(self.selector):
            with _loss_told():
                told = bytearray(connection.recv_bytes())
                aspects = np.frombuffer(told, np.float32) if told else connection.recv()
            yield self.begun[connection].popleft(), aspects

    def close(self) -> None:
        atexit.unregister(self.close)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for connection in self.begun:
            connection.close()
        self.selector.close()


@contextmanager
def _loss_told() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise UserError(
            "a data-loading worker was killed, probably out of memory; lower pretrain.loader.num_workers"
        ) from error


def _ready(selector: DefaultSelector) -> list:
    return [key.fileobj for key, _ in selector.select()]


def _work(jobs: Connection, images: PackedSplit, slots: _Slots) -> None:
    """Decode until this process is killed, or the one that started it has ended, however it ended."""
    for request in (signal.SIGINT, signal.SIGTERM):  # they may go to every process; the one that started us decides
        signal.signal(request, signal.SIG_IGN)
    pixels, selector = slots.pixels(), DefaultSelector()
    parent = multiprocessing.parent_process().sentinel
    for one in (jobs, parent):
        selector.register(one, EVENT_READ)
    while parent not in _ready(selector):
        job = np.frombuffer(jobs.recv_bytes(), np.int64)
        try:
            jobs.send_bytes(images.decode_into(pixels[job[-1]], job[:-1]))
        except Exception as error:
            jobs.send_bytes(b"")
            jobs.send(ExceptionWithTraceback(error, error.__traceback__))
