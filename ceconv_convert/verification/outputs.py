"""The outputs of a network, as a flat tuple of tensors, and how far apart two of them are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ceconv_convert.errors import VerificationError
from ceconv_convert.verification.shapes import as_text

Outputs = tuple[Tensor, ...]


def run_module(module: Callable[[Tensor], object], x: Tensor) -> Outputs:
    """The outputs of ``module``, or of its forward pass, without gradients."""
    with torch.no_grad():
        return flatten(module(x.clone()))  # a forward pass may work in place


def flatten(outputs: object) -> Outputs:
    """A tensor, or nested tuples, lists and dicts of them, as a flat tuple; complex numbers as pairs.

    Raises:
        VerificationError: for anything else.
    """
    if isinstance(outputs, Tensor):
        return (torch.view_as_real(outputs.resolve_conj()) if outputs.is_complex() else outputs,)
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return tuple(tensor for item in outputs if item is not None for tensor in flatten(item))
    raise VerificationError(
        f"the network gives {type(outputs).__name__}, which cannot be compared: expected tensors"
    )


def distances(found: Tensor, exact: Tensor) -> Tensor:
    """Absolute differences, element by element, in float64."""
    return (found.to("cpu", torch.float64) - exact.to("cpu", torch.float64)).abs()


def distance(found: Tensor, exact: Tensor) -> float:
    """Worst absolute difference, in float64; 0 for an empty tensor."""
    difference = distances(found, exact)
    return float(difference.max()) if difference.numel() else 0.0


def largest(exact: Tensor) -> float:
    """Largest absolute value; 0 for an empty tensor."""
    return float(exact.to(torch.float64).abs().max()) if exact.numel() else 0.0


def mismatch(found: Tensor, original: Tensor, exact: Tensor) -> str | None:
    """Why two outputs cannot be compared by number, or None."""
    if found.shape != original.shape:
        return f"it gives shape {as_text(tuple(found.shape))}, the original {as_text(tuple(original.shape))}"
    if found.dtype != original.dtype:
        return f"it gives {found.dtype}, the original {original.dtype}"
    for tensor, whose in ((exact, "the reference"), (original, "the original"), (found, "it")):
        if not bool(torch.isfinite(tensor).all()):
            return f"{whose} gives NaN or Inf"
    return None
