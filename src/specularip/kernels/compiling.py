"""Compilation of the numba kernels: a log line when it happens, and a cache that can fail.

Compiling takes half a minute and would look like a hang. numba keeps the machine code beside the package, in
NUMBA_CACHE_DIR or in the user's cache folder, so it happens once on a machine and again after an update.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from threading import Thread
from typing import Any

from numba.core import event
from numba.core.caching import FunctionCache

from specularip.errors import first_line

Kernel = Any
"""numba's Dispatcher."""

_log = logging.getLogger("specularip")


class _CompilationLogger(event.Listener):
    """Logs the first compilation of one of the package's kernels in this process, at WARNING so that it shows
    by default, and no other. kept: whether all machine code can be kept."""

    logged = False
    kept = True

    def on_start(self, event: event.Event) -> None:
        kernel = event.data["dispatcher"].py_func
        # Functions built at run time may have no module.
        if self.logged or not (getattr(kernel, "__module__", None) or "").startswith("specularip."):
            return
        if kernel.__name__ != "<lambda>":  # the operators of simd.py, which any numba code may use
            self.logged = True
            how_often = (
                "once on this machine"
                if self.kept
                else "at every start: set NUMBA_CACHE_DIR to a folder you may write to"
            )
            _log.warning("compiling the CPU kernels, 20 to 60 seconds, %s", how_often)

    def on_end(self, event: event.Event) -> None:
        pass


@cache
def _announce_compilation() -> None:
    event.register("numba:compile", _CompilationLogger())


def cached(kernel: Kernel) -> Kernel:
    """Keep the machine code of a kernel, a function compiled by `numba.njit`, for the next start.

    Unlike `njit(cache=True)`, whatever is wrong with the folder ends nothing: the kernel is compiled again.
    """
    _announce_compilation()
    try:
        kernel._cache = _KernelCache(kernel.py_func)
    except (RuntimeError, OSError):  # there is no folder that can be written to; numba's words for that vary
        _CompilationLogger.kept = False
    return kernel


class _KernelCache(FunctionCache):
    """numba's cache of one kernel. Without this, damaged files and a full disk raise errors of all kinds."""

    warned = False

    def load_overload(self, sig: object, target_context: object) -> object | None:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling damaged files raises anything
            self._warn("cannot be read", error)
        try:
            self.flush()  # an empty index, so that the files are written again
        except OSError:
            pass
        return None

    def save_overload(self, sig: object, data: object) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self._warn("cannot be kept", error)

    def _warn(self, problem: str, error: Exception) -> None:
        if not _KernelCache.warned:
            _KernelCache.warned = True
            _log.warning(
                "the compiled CPU kernels %s in %s (%s) and are compiled again; if this goes on, delete its "
                "*.nbi and *.nbc files, or set NUMBA_CACHE_DIR to another folder",
                problem, self.cache_path, first_line(error),
            )  # fmt: skip


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
