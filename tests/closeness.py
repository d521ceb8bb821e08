"""How far numbers are from the truth."""

from torch import Tensor


def relative(value: Tensor, truth: Tensor) -> float:
    """Norm of the difference over that of the truth; infinite if not finite."""
    value, truth = value.detach().double(), truth.detach().double()
    error = float((value - truth).norm() / truth.norm())
    return error if error == error else float("inf")
