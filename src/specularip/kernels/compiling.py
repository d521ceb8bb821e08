"""Compilation of the numba kernels: a log line when it happens, an error message where it cannot be cached.

Compiling takes seconds and would look like a hang. numba caches the machine code beside the package (or in
NUMBA_CACHE_DIR), so it happens once on a machine and again after an update.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from threading import Thread

from numba.core import event

from specularip.errors import UserError

_log = logging.getLogger("specularip")


class _CompilationLogger(event.Listener):
    """Logs the first compilation of one of the package's kernels in this process, and no other."""

    logged = False

    def on_start(self, event: event.Event) -> None:
        kernel = event.data["dispatcher"].py_func
        # Functions built at run time may have no module.
        if self.logged or not (getattr(kernel, "__module__", None) or "").startswith("specularip."):
            return
        if kernel.__name__ != "<lambda>":  # the operators of simd.py, which any numba code may use
            self.logged = True
            _log.warning("compiling the CPU kernels, half a minute, once on this machine")

    def on_end(self, event: event.Event) -> None:
        pass


@cache
def announce_compilation() -> None:
    """Log one line when kernels have to be compiled, at WARNING so that it shows by default."""
    event.register("numba:compile", _CompilationLogger())


def cache_folder_error(error: RuntimeError) -> UserError:
    """The error to raise where numba finds no writable cache folder. numba raises its own RuntimeError when a
    module with cached kernels is imported."""
    return UserError(
        f"The CPU kernels cannot be cached ({error}): set NUMBA_CACHE_DIR to a folder you may write to."
    )


def in_background(*warm_ups: Callable[[], None]) -> Future[None]:
    """Call functions that compile kernels, one after the other, beside other work.

    `result()` of what is returned waits for them, and raises what they raised. The thread does not keep a
    process alive that is stopped meanwhile.
    """
    future: Future[None] = Future()

    def work() -> None:
        try:
            for warm_up in warm_ups:
                warm_up()
            future.set_result(None)
        except BaseException as error:  # raised where the result is needed
            future.set_exception(error)

    Thread(target=work, name="specularip-compile", daemon=True).start()
    return future
