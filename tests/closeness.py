"""How far numbers are from the truth."""

from torch import Tensor


def relative(value: Tensor, truth: Tensor) -> float:
    """Distance over the truth's norm; a value that is not finite is far away."""
    value, truth = value.detach().double(), truth.detach().double()
    error = float((value - truth).norm() / truth.norm())
    return error if error == error else float("inf")
