"""How far apart two tensors are, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(found: Tensor, exact: Tensor) -> Tensor:
    """Absolute differences, element by element."""
    return (found.to("cpu", torch.float64) - exact.to("cpu", torch.float64)).abs()


def distance(found: Tensor, exact: Tensor) -> float:
    """Worst absolute difference; 0 for an empty tensor."""
    difference = distances(found, exact)
    return float(difference.max()) if difference.numel() else 0.0


def largest(exact: Tensor) -> float:
    """Largest absolute value; 0 for an empty tensor."""
    return float(exact.to(torch.float64).abs().max()) if exact.numel() else 0.0
