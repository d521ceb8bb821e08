"""Ctrl-C, SIGTERM and SIGHUP (the terminal or its connection is gone): the first lets the training loop save
a checkpoint, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)
"""The signals that stop a run. Windows has no SIGHUP."""


class StopRequest:
    """`requested` becomes True at the first signal. Loops check it between steps, when the state is
    consistent."""

    requested = False
    _at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, which has nothing that could be saved, the first signal raises KeyboardInterrupt;
        one that came before does so here."""
        self._at_once = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def signalled(self) -> None:
        """A signal has come. Raises KeyboardInterrupt for all but the first, and `at_once`."""
        if self.requested or self._at_once:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within the block, signals of STOPS are those of `StopRequest.signalled`.

    Python handles signals in the main thread only: in any other thread the block has no effect.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.signalled()

    before = {number: signal.signal(number, on_signal) for number in STOPS if not _under_nohup(number)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_termination() -> None:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. No effect outside the main thread."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in STOPS:
            if number != signal.SIGINT and not _under_nohup(number):
                signal.signal(number, on_signal)


def _under_nohup(number: int) -> bool:
    """Whether `nohup` has had the process started so that it outlives its terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
