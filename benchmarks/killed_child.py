"""A command line in a forked process. Whoever imports this has all libraries and kernels loaded."""

from __future__ import annotations

import os
import signal
import sys

import torch._dynamo  # noqa: F401  (by the first optimizer)
from PIL import Image

import specularip.batch.run_job
import specularip.exporting
import specularip.fitting.fit
import specularip.pipeline  # noqa: F401
from specularip import raster, specular
from specularip.cli import main
from specularip.fitting import silhouettes
from specularip.training import session

Image.init()
for module in (raster, specular, silhouettes):
    module.warm_up()


def run(arguments: list[str], log: str, seconds: float) -> None:
    """`specularip` with these arguments, which prints to the file `log` and makes a checkpoint after so many
    seconds instead of the usual."""
    os.setsid()
    with open(log, "wb", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    # `nohup`, and shells that run a job in the background, have children ignore them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(1, f"specularip {' '.join(arguments)}\n".encode())
    session.CHECKPOINT_SECONDS = session.PREVIEW_SECONDS = seconds
    sys.argv = ["specularip", *arguments]
    main()
