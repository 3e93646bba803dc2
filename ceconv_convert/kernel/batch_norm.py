"""A batch norm in eval mode, as a part of the layer before it.

Per output channel o, with s = γ/√(var + ε) and t = β - μ s, it is y ↦ s·y + t, and commutes with everything
that a layer does to its channels:
    s·(w ∗ x + b) + t = (s w) ∗ x + (s b + t)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ceconv_convert.kernel.spec import KernelSpec


def scale_and_shift(
    gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The scale s and shift t, ``[C]`` each, from γ, β, μ and the variance, ``[C]`` each.

    >>> one = torch.ones(1)
    >>> scale_and_shift(2 * one, 3 * one, one, 4 * one, 0.0)
    (tensor([1.]), tensor([2.]))
    """
    scale = gamma / torch.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def scaled(spec: KernelSpec, scale: Tensor, shift: Tensor | None) -> KernelSpec:
    """The layer whose output is ``scale · y + shift``, ``[O]`` each; None shifts nothing."""
    bias = None if spec.bias is None else spec.bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return replace(spec, weight=spec.weight * scale[:, None, None, None, None], bias=bias)
