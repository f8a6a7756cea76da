"""Defer SIGTERM and SIGINT until the current step is checkpointed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Request:
    """Which signal asked the process to end; 0 while none did."""

    signum = 0


@contextmanager
def deferred_signals() -> Iterator[Request]:
    """Note the first signal instead of dying of it; a second one acts at once, as it would have without this.

    Outside of the main thread, where Python delivers no signals, nothing is held back.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, _frame: object) -> None:
        request.signum = signum
        restore()

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield request
    finally:
        restore()
