"""``form="conv2d"``: all rotations of the kernel written out, one plain convolution.

N_out times the weights of a lifting or hidden layer, and no work left but the convolution itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.forms.target import TargetLayer, as_parameter, symmetric_padding, without_numbers
from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.rotation_major import flatten_rotations
from ceconv_convert.kernel.spec import KernelSpec


class ExpandedConv2d(TargetLayer, nn.Conv2d):
    """Any layer: ``[B, I, N_in, H, W]``, or ``[B, 3, H, W]`` for lifting, → ``[B, O, N_out, H', W']``.

    Weight ``[O·N_out, I·N_in, kh, kw]``, bias ``[O·N_out]``. Color matrices are baked in. ``in_channels`` and
    ``out_channels`` are I and O, as of every color-equivariant layer.
    """

    form = "conv2d"

    def __init__(self, spec: KernelSpec) -> None:
        channels = (spec.in_channels * spec.in_rotations, spec.out_channels * spec.out_rotations)
        padding = symmetric_padding(spec)
        super().__init__(*channels, spec.kernel_size, spec.stride, padding, **without_numbers(spec))
        self.take_over(spec)
        self.weight = as_parameter(expand(spec))
        if spec.bias is not None:
            self.bias = as_parameter(spec.bias.repeat_interleave(spec.out_rotations))

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]``, or flat, ``[B, I·N_in, H, W]``, → ``[B, O, N_out, H', W']``."""
        x = self.pad_excess(flatten_rotations(input))
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        features: Tensor = y.contiguous().unflatten(1, (-1, self.out_rotations))
        return features

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, expanded rotations={self.in_rotations}→{self.out_rotations}"
