"""A layer as one grouped convolution between two mixes of rotations: y = U · conv(T · x).

Every form that the graph compiler writes is one of these; they differ in the groups and in T and U alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True, eq=False)
class Factored:
    """The factors, for g groups of b·I → a·O channels.

    Attributes:
        weight: ``[g, a, O, b, I, kh, kw]``.
        bias: ``[g·a, O]``, or None.
        forward: T, ``[g·b, N_in]``, or None where the convolution takes the rotations as they are.
        inverse: U, ``[N_out, g·a]``, or None where it gives the rotations as they are.
    """

    weight: Tensor
    bias: Tensor | None
    forward: Tensor | None = None
    inverse: Tensor | None = None


def expanded_factors(spec: KernelSpec) -> Factored:
    """All rotations of the kernel written out: one group of N_in·I → N_out·O channels."""
    weight = torch.unflatten(expand(spec), 0, (-1, spec.out_rotations))
    weight = torch.unflatten(weight, 2, (-1, spec.in_rotations))  # [O, N_out, I, N_in, kh, kw]
    bias = None if spec.bias is None else spec.bias.expand(spec.out_rotations, -1)
    return Factored(weight.permute(1, 0, 3, 2, 4, 5).unsqueeze(0), bias)


def bias_of_first(bias: Tensor | None, products: int) -> Tensor | None:
    """``[O]`` → ``[products, O]``: the bias on the first product, zeros on the others."""
    return None if bias is None else F.pad(bias.unsqueeze(0), (0, 0, 0, products - 1))
