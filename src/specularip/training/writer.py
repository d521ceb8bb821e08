"""Background file writing, so that training does not wait for serialisation and disks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """One thread that writes one file at a time. An error surfaces in the main thread, at the next call.

    The interpreter waits for the thread before it exits, also after an exception.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._file: Future[object] | None = None

    @property
    def busy(self) -> bool:
        """Whether a file is still being written. Raises the error of one that failed."""
        if self._file is not None and self._file.done():
            self.join()
        return self._file is not None

    def submit(self, write: Callable[[], object]) -> None:
        """Run `write` in the thread, after the file before is finished. Raises that one's error."""
        self.join()
        self._file = self._thread.submit(write)

    def join(self) -> None:
        """Wait for the file in flight. Raises its error, once."""
        if self._file is not None:
            self._file.exception()  # waits; interrupted by Ctrl-C, the file stays in flight
            file, self._file = self._file, None
            file.result()

    def close(self) -> None:
        """Wait for the file in flight and end the thread. Raises its error."""
        try:
            self.join()
        finally:
            self._thread.shutdown()
