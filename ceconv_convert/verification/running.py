"""Run a network: its outputs as a flat tuple of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ceconv_convert.errors import VerificationError

Outputs = tuple[Tensor, ...]


def run_module(module: Callable[[Tensor], object], x: Tensor) -> Outputs:
    """The outputs of ``module``, or of its forward pass, as a flat tuple of tensors, without gradients."""
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
