"""Says so when numba compiles the kernels, which takes seconds and would look like a hang.

numba keeps the machine code in a cache beside the package (or where NUMBA_CACHE_DIR points), so it happens
once on a machine and again after an update.
"""

from __future__ import annotations

import logging
from functools import cache

from numba.core import event

_log = logging.getLogger("specularip")


class _Announcer(event.Listener):
    """Tells of the first compilation of one of the package's kernels in this process, and of no other."""

    said = False

    def on_start(self, event: event.Event) -> None:
        kernel = event.data["dispatcher"].py_func
        # Code made at run time may have no module.
        if self.said or not (getattr(kernel, "__module__", None) or "").startswith("specularip."):
            return
        if kernel.__name__ != "<lambda>":  # the operators of simd.py, compiled into somebody's own kernel
            self.said = True
            _log.warning("compiling the CPU kernels, ten to twenty seconds, once on this machine")

    def on_end(self, event: event.Event) -> None:
        pass


@cache
def announce_compilation() -> None:
    """Log a line, at WARNING so that it shows by default, if kernels turn out to need compiling."""
    event.register("numba:compile", _Announcer())
