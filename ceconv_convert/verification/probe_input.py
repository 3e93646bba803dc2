"""What a layer is fed where it is judged by itself: signs, large enough that no bias drowns its kernel.

With x = ± a everywhere the absolute products behind an output add up to a · Σ |w| + |b|, channel by channel.
A kernel whose products are far below its bias would be lost in the roundings of that; a makes them alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec


def signs(shape: Sequence[int], seed: int, magnitude: float, dtype: torch.dtype) -> Tensor:
    """± ``magnitude``, seeded."""
    random = torch.randint(0, 2, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return ((2 * random - 1) * magnitude).to(dtype)


def magnitude_for(spec: KernelSpec, dtype: torch.dtype) -> float:
    """A power of two, at least 1: with it the products of every channel's kernel add up to its bias, or more.

    Bounded so that sums stay far from overflow in ``dtype``.

    >>> weight, bias = torch.ones(1, 1, 3, 1, 1), torch.tensor([12.0])
    >>> magnitude_for(CyclicSpec(weight, bias, 3, (1, 1), ((0, 0), (0, 0))), torch.float32)
    4.0
    """
    products = spec.weight.abs().flatten(1).sum(1)  # [O]
    there = products > 0
    if spec.bias is None or not bool(there.any()):
        return 1.0
    wanted = float((spec.bias.abs()[there] / products[there]).max())
    most = math.sqrt(torch.finfo(dtype).max) / float(products.max())
    return 2.0 ** max(0, math.ceil(math.log2(max(1.0, min(wanted, most)))))


def reach_of(spec: KernelSpec, magnitude: float) -> Tensor:
    """A · Σ |w| + |b| of every channel, ``[O]``: the largest over the rotations."""
    absolute = replace(spec.map(torch.abs), padding=((0, 0), (0, 0)))
    x = torch.full(spec.input_shape(1, spec.kernel_size), magnitude, dtype=spec.dtype)
    return evaluate(absolute, x.to(spec.weight.device)).amax((0, 2, 3, 4)).cpu()
