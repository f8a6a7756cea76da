"""Reading packed data sets: small images whole and in memory, photographs cut by the workers of a torch DataLoader.

Pretraining depends on this file, so nothing here downloads, packs or knows where a set came from (that is sources/).
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.data.packed import READ_AT_ONCE, ImageBatch, PackedSplit
from pipeline.data.photographs import CentreCut, Cut
from pipeline.data.shards import Shards
from pipeline.data.slots import Decoder, Job, Jobs, num_bytes, parts
from pipeline.runtime.bars import num_cpus
from pipeline.runtime.errors import UserError

MakeViews = Callable[..., tuple[Tensor, Tensor | None]]
AHEAD = 2  # batches of each worker that are being decoded or wait for it
_WORKERS: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()


class CropBatch(NamedTuple):
    """Crops of photographs, without flip and colour.

    global_crops: (Vg, B, C, g, g) uint8. local_crops: (Vl, B, C, l, l) uint8, or None. labels: (B,) int64.
    """

    global_crops: Tensor
    local_crops: Tensor | None
    labels: Tensor


def in_memory(images: PackedSplit) -> ImageBatch:
    """Decode all images of a split that is read whole, with all cores; N images, in order."""
    pixels = torch.empty(len(images), images.channels, *images.size_px, dtype=torch.uint8)

    def fill(start: int) -> None:
        part = range(len(images))[start : start + READ_AT_ONCE]
        decoded = torch.empty(len(part), *images.size_px, images.channels, dtype=torch.uint8)
        images.decode_into(decoded, part)
        pixels[part.start : part.stop] = decoded.movedim(3, 1)

    images.encoded(0)  # opens the files once, before the threads share them
    with ThreadPoolExecutor(num_cpus()) as pool:
        list(pool.map(fill, range(0, len(images), READ_AT_ONCE)))
    return ImageBatch(pixels, images.labels)


def open_split(folder: str | Path, split: str, *, load_px: int, memory_gb: float) -> ImageBatch | PackedSplit:
    """Open one split of a packed data set, in memory if it is read whole and its pixels fit.

    Args:
        folder, split, load_px: as for `PackedSplit`.
        memory_gb: most memory to use for pixels, in 1e9 bytes.
    """
    images = PackedSplit(folder, split, load_px=load_px)
    if images.size_px is None:
        return images
    num_bytes = len(images) * images.channels * images.size_px[0] * images.size_px[1]
    return in_memory(images) if num_bytes <= memory_gb * 1e9 else images


def how_read(images: ImageBatch | PackedSplit) -> str:
    """Return in words which way images take to their views."""
    if isinstance(images, ImageBatch):
        return "images of one size, in memory; views are cut on the device"
    if images.size_px:
        return "images of one size, decoded by workers; views are cut on the device"
    return "photographs; workers cut the views at their own resolution"


class BatchReader:
    """Batches of a split. Its worker processes live as long as it does, over all epochs.

    Args:
        images: a split; one in memory may be on any device.
        num_workers: decoding processes for images that are not in memory; 0: this process decodes.
        device: where the batches are wanted.
    """

    def __init__(self, images: ImageBatch | PackedSplit, *, num_workers: int = 0, device: torch.device | str = "cpu"):
        """Start nothing yet: the first batch does."""
        self._images, self._num_workers, self._device = images, num_workers, torch.device(device)
        self._jobs: Jobs | None = None
        self._loader: DataLoader | None = None

    def __call__(
        self, order: Tensor, batch_size: int, *, cut: Cut | None = None, drop_last: bool = False
    ) -> Iterator[ImageBatch | CropBatch]:
        """Yield the images of `order`, `batch_size` at a time, in their order and on the device.

        The result does not depend on num_workers, and no global random state is touched. A batch may be kept.

        Args:
            order: (M,) int64 indices of images; repeats are allowed.
            batch_size: >= 1.
            cut: what is shown of photographs; images that are read whole come whole.
            drop_last: leave out a last batch that is not full.

        Raises:
            UserError: a worker was killed, or there is too little memory to share with workers.
            Exception: whatever a worker met, when the turn of its batch has come.
        """
        if isinstance(self._images, ImageBatch):
            for chosen in _full(order.to(self._images.pixels.device).split(batch_size), batch_size, drop_last):
                yield _moved(ImageBatch(*(part.index_select(0, chosen) for part in self._images)), self._device)
            return
        if self._images.size_px is None and cut is None:
            raise ValueError("photographs have no common size: say what is cut of them")
        size = num_bytes(self._images, min(batch_size, len(order)), cut)
        stream = self._begun(_jobs(self._images.shards, order, batch_size, cut, drop_last), size)
        try:
            while True:
                with _loss_told():
                    result = next(stream, None)
                if result is None:
                    return
                if isinstance(result, Exception):
                    raise result
                yield _moved(_batch(self._images, *self._jobs.done()), self._device)
        except Exception:
            self._loader = stream = None  # the traceback holds this frame, and with it the workers
            raise

    def _begun(self, planned: Iterator[Job], size: int) -> Iterator[bool | Exception]:
        """Start workers with slots of `size` bytes, or give those that are there the jobs of another epoch.

        torch's handler of SIGCHLD would raise wherever the program is when a worker dies; `next` notices it as well,
        within five seconds of waiting.
        """
        before = signal.getsignal(signal.SIGCHLD)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as was asked
            if self._loader is None or size > self._jobs.slots.shape[1]:
                self._jobs = Jobs(AHEAD * self._num_workers, size)
                self._loader = DataLoader(
                    Decoder(self._images, self._jobs.slots),
                    batch_size=None,
                    sampler=self._jobs,
                    num_workers=self._num_workers,
                    prefetch_factor=AHEAD if self._num_workers else None,
                    persistent_workers=self._num_workers > 0,
                    worker_init_fn=_ignore_signals,
                    generator=torch.Generator(),  # else every epoch takes a number from the global one
                )
            self._jobs.planned = planned
            others = multiprocessing.active_children()
            stream = iter(self._loader)
            _WORKERS.update(set(multiprocessing.active_children()).difference(others))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return stream


def batches(
    images: ImageBatch | PackedSplit,
    order: Tensor,
    batch_size: int,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    cut: Cut | None = None,
    drop_last: bool = False,
) -> Iterator[ImageBatch | CropBatch]:
    """Go through images once; see `BatchReader`."""
    read = BatchReader(images, num_workers=num_workers, device=device)
    yield from read(order, batch_size, cut=cut, drop_last=drop_last)


def squares(
    images: ImageBatch | PackedSplit, order: Tensor, batch_size: int, size_px: int, **how
) -> Iterator[ImageBatch]:
    """Go through images for `evaluation_view`: whole, or the centred squares of photographs, of `size_px`."""
    return batches(images, order, batch_size, cut=CentreCut(size_px), **how)


def views_of(batch: ImageBatch | CropBatch, views: MakeViews, **draws) -> tuple[Tensor, Tensor | None]:
    """Return the global and local views of a batch: cut from whole images, or finished where they have been cut.

    Args:
        batch: what `BatchReader` yields.
        views: a `Multicrop`.
        draws: generator, first and of, as for `Multicrop`.
    """
    if isinstance(batch, CropBatch):
        return views.finished(batch.global_crops, batch.local_crops, **draws)
    return views(batch.pixels, **draws)


def _batch(images: PackedSplit, job: Job, pixels: Tensor) -> ImageBatch | CropBatch:
    """Return the batch of a job whose slot is filled."""
    labels = images.labels[job.indices]
    shown = [part.movedim(-1, -3) for part in parts(images, job, pixels)]
    if images.size_px:
        return ImageBatch(shown[0], labels)
    if isinstance(job.cut, CentreCut):
        return ImageBatch(shown[0][0], labels)
    return CropBatch(shown[0], shown[1] if len(shown) > 1 else None, labels)


def _ignore_signals(_: int) -> None:
    """Leave Ctrl-C and SIGTERM, which may go to every process, to the one that started the workers."""
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """End what the traceback of an error keeps alive: Python sends it SIGTERM and then waits for it, for ever."""
    for worker in _WORKERS:
        worker.kill()


@contextmanager
def _loss_told() -> Iterator[None]:
    """Say what the loss of a worker means."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a data-loading worker was killed, probably out of memory; lower pretrain.loader.num_workers, or give a "
            "container more shared memory (docker run --shm-size)"
        ) from error


def _moved(batch: ImageBatch | CropBatch, device: torch.device) -> ImageBatch | CropBatch:
    return type(batch)(*(part if part is None else _on(device, part) for part in batch))


def _on(device: torch.device, part: Tensor) -> Tensor:
    if device.type == "cuda" and part.device.type == "cpu":
        return part.pin_memory().to(device, non_blocking=True)  # a copy, so that nothing waits for the GPU
    return part.to(device)


def _full(parts: tuple[Tensor, ...], batch_size: int, drop_last: bool) -> Iterator[Tensor]:
    for part in parts:
        if len(part) == batch_size or (len(part) and not drop_last):
            yield part


def _jobs(shards: Shards, order: Tensor, batch_size: int, cut: Cut | None, drop_last: bool) -> Iterator[Job]:
    """Yield the images of each batch; blocks of which most images are wanted are read whole when the first one is.

    Batches are asked for before their turn comes, so the disk is ahead of the decoders.
    """
    blocks = shards.block_of(order)
    wanted = torch.bincount(blocks, minlength=len(shards.blocks.num_images)) * 2 > shards.blocks.num_images
    places = torch.arange(len(order)).split(batch_size)
    for number, place in enumerate(_full(places, batch_size, drop_last)):
        touched = blocks[place]
        for block in sorted(set(touched[wanted[touched]].tolist())):
            shards.read_ahead(block)
        wanted[touched] = False
        yield Job(order[place].numpy(), number, cut)
