"""Ctrl-C and SIGTERM, polite: the first asks a loop to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`requested` turns True at the first signal. Loops look at it between steps, when state is whole."""

    requested = False


@contextmanager
def polite_stop() -> Iterator[StopRequest]:
    """Within the block, the first SIGINT or SIGTERM only sets `requested`; another raises KeyboardInterrupt.

    Python lets only the main thread handle signals: in any other thread the block changes nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
