"""The forms of plain 2-D convolutions.

``form="conv2d"``: all rotations of the kernel written out, one convolution. N_out times the weights of a
lifting or hidden layer, and no work left but the convolution itself.

``form="fourier"``: the rotations of a cyclic layer in frequencies, m convolutions in place of N²,
y = U · conv2d(T · x, V · w): two small transforms over the rotations around m ≈ 3N/2 convolutions. Exact for
N_in = N_out ≥ 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.forms.target import TargetLayer, without_numbers
from ceconv_convert.kernel.cyclic_fourier import fourier_factors
from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.rotation_major import flatten_rotations
from ceconv_convert.kernel.spec import KernelSpec, split_padding


class ExpandedConv2d(TargetLayer, nn.Conv2d):
    """Any layer: ``[B, I, N_in, H, W]``, or ``[B, 3, H, W]`` for lifting, → ``[B, O, N_out, H', W']``.

    Weight ``[O·N_out, I·N_in, kh, kw]``, bias ``[O·N_out]``. Color matrices are baked in. ``in_channels`` and
    ``out_channels`` are I and O, as of every color-equivariant layer.
    """

    form = "conv2d"

    def __init__(self, spec: KernelSpec) -> None:
        channels = (spec.in_channels * spec.in_rotations, spec.out_channels * spec.out_rotations)
        padding = split_padding(spec.padding)[0]
        super().__init__(*channels, spec.kernel_size, spec.stride, padding, **without_numbers(spec))
        bias = None if spec.bias is None else spec.bias.repeat_interleave(spec.out_rotations)
        self.take_over(spec, weight=expand(spec), bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]``, or flat, ``[B, I·N_in, H, W]``, → ``[B, O, N_out, H', W']``."""
        x = self.pad_excess(flatten_rotations(self.take(input) if self.group_major else input))
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return self.give(y.contiguous().unflatten(1, (-1, self.out_rotations)))


class FourierConv2d(TargetLayer, nn.Conv2d):
    """A cyclic layer of N rotations: ``[B, I, N, H, W]`` → ``[B, O, N, H', W']``.

    Weight ``[m·O, I, kh, kw]``: the m products' kernels, transformed in float64. Bias ``[O]``.

    Raises:
        SpecError: for a layer that is not cyclic, or has not as many rotations out as in, at least 2.
    """

    form = "fourier"
    forward_transform: Tensor
    inverse_transform: Tensor

    def __init__(self, spec: KernelSpec) -> None:
        factors = fourier_factors(spec)
        groups = len(factors.weight)
        super().__init__(
            *(groups * spec.in_channels, groups * spec.out_channels, spec.kernel_size, spec.stride),
            padding=split_padding(spec.padding)[0],
            groups=groups,
            **without_numbers(spec),
        )
        self.take_over(spec, weight=factors.weight.flatten(0, 2).flatten(1, 2), bias=spec.bias)
        for name, matrix in (("forward", factors.forward), ("inverse", factors.inverse)):
            moved = None if matrix is None else matrix.to(spec.weight)
            self.register_buffer(f"{name}_transform", moved, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or flat, ``[B, I·N, H, W]``, → ``[B, O, N, H', W']``."""
        x = self.take(input).transpose(1, 2)  # [B, N, I, H, W]
        # Matrix products and a convolution for each product: torch is slow at 1×1×1 Conv3d and at groups.
        mixed = torch.matmul(self.forward_transform, x.flatten(2))  # [B, m, I·H·W]
        mixed = self.pad_excess(torch.unflatten(mixed, 2, x.shape[2:]))
        # The bias is on the product of frequency 0, whose column in U is constant.
        first = None if self.bias is None else self.bias / self.inverse_transform[0, 0]
        products = zip(mixed.unbind(1), self.weight.chunk(self.groups), strict=True)
        y = torch.stack(
            [
                F.conv2d(part, kernel, None if index else first, self.stride, self.padding)
                for index, (part, kernel) in enumerate(products)
            ],
            dim=1,
        )  # [B, m, O, H', W']
        features = torch.matmul(self.inverse_transform, y.flatten(2))  # [B, N, O·H'·W']
        return self.give(torch.unflatten(features, 2, y.shape[2:]).transpose(1, 2))
