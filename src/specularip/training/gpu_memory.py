"""What to do when a GPU runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specularip.errors import UserError


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of the GPU into a UserError with this advice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"the GPU ran out of memory; {advice}") from error
