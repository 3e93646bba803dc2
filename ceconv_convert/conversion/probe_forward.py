"""The numbers have the last word: does a foreign layer compute what its parameters say?"""

from __future__ import annotations

import torch
from torch import nn

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec

_TOLERANCE = 1e-4
"""Relative to the largest output. float32 noise stays two decades below, another layer two above."""


def disagreement(layer: nn.Module, spec: KernelSpec) -> str | None:
    """None where ``layer.forward`` on a small random input agrees with the spec; else the reason.

    Args:
        layer: in the default dtype, on the CPU, in eval mode.
        spec: what the layer's parameters say.
    """
    kernel_rows, kernel_columns = spec.kernel_size
    shape = list(spec.input_shape(2, (kernel_rows + 3, kernel_columns + 4)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=spec.dtype)
    exact = spec.map(lambda tensor: tensor.detach().double())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = evaluate(exact, x.double())
        try:
            found = layer.forward(x)
        except FOREIGN_FAILURES as error:
            return f"its forward pass fails on an input of shape {shape}: {first_line(error)}"
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        outcome = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        return f"its forward pass gives {outcome} where its parameters say {list(expected.shape)}"
    difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
    if not difference <= _TOLERANCE:  # NaN disagrees too
        return f"its forward pass differs from what its parameters say: by {difference:.1e} of the output"
    return None
