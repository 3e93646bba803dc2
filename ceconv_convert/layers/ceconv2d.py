"""The color-equivariant convolution of Lengyel et al., NeurIPS 2023, equations 8 and 9."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.color import hue_rotation_matrix
from ceconv_convert.kernel.expand import expand_cyclic, expand_lifting, fold

PICKLED_AS = "_pickled_as"
"""Attribute of a module that a file has under another class name: that name."""


class CEConv2d(nn.Conv2d):
    """Color-equivariant convolution, state-dict compatible with the published layer.

    Lifting (``in_rotations == 1``) takes ``[B, 3, H, W]`` or ``[B, 3, 1, H, W]``; hidden layers take
    ``[B, in_channels, in_rotations, H, W]``. Both return ``[B, out_channels, out_rotations, H', W']``,
    contiguous, in the dtype of the parameters: any floating point.

    As in the published layer ``stride`` and ``padding`` are honoured; ``dilation``, ``groups`` and
    ``padding_mode`` are accepted and have no effect on the result.

    Args:
        in_rotations: rotations of the input; 1 makes a lifting layer.
        out_rotations: rotations of the output.
        in_channels: channels of the input; 3 for lifting.
        out_channels: channels of the output.
        kernel_size: an int, or rows and columns.
        learnable: whether a lifting layer's color matrix starts random and is trained.
        separable: whether a hidden layer's kernel is a product of a spatial and a rotation factor.
        **conv2d_arguments: those of ``nn.Conv2d``.

    Raises:
        SpecError: for rotations below 1, or a lifting layer whose input is not 3 colors.

    >>> lifting = CEConv2d(1, 3, 3, 8, kernel_size=3, padding=1)
    >>> hidden = CEConv2d(3, 3, 8, 4, kernel_size=3)
    >>> hidden(lifting(torch.zeros(2, 3, 9, 9))).shape
    torch.Size([2, 4, 3, 7, 7])
    """

    pointwise_weight: nn.Parameter  # separable layers only
    transformation_matrix: nn.Parameter  # lifting layers only

    def __init__(
        self,
        in_rotations: int,
        out_rotations: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        learnable: bool = False,
        separable: bool = True,
        **conv2d_arguments: Any,
    ) -> None:
        if in_rotations < 1 or out_rotations < 1:
            raise SpecError(f"rotations are at least 1, found {in_rotations} in and {out_rotations} out")
        if in_rotations == 1 and out_rotations > 1 and in_channels != 3:
            raise SpecError(f"a lifting layer sees 3 color channels, found in_channels={in_channels}")
        super().__init__(in_channels, out_channels, kernel_size, **conv2d_arguments)
        self.in_rotations = in_rotations
        self.out_rotations = out_rotations
        self.separable = separable

        depth = 1 if in_rotations == 1 or separable else in_rotations
        self.weight = nn.Parameter(self.weight.new_empty(out_channels, in_channels, depth, *self.kernel_size))
        if in_rotations == 1:
            matrix = hue_rotation_matrix(out_rotations)
            if learnable:
                matrix = torch.empty(3, 3).uniform_(-1 / 3, 1 / 3)
            self.transformation_matrix = nn.Parameter(matrix.to(self.weight), requires_grad=learnable)
        elif separable:
            shape = (out_channels, in_channels, in_rotations, 1, 1)
            self.pointwise_weight = nn.Parameter(self.weight.new_empty(shape))
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Pickles from before the separable layer existed do not say which of the two they are.
        if "separable" not in self.__dict__:
            self.separable = "pointwise_weight" in self._parameters

    def reset_parameters(self) -> None:
        """Draw weights and bias from U(-s, s), s = 1/√(in_channels · in_rotations · kh · kw)."""
        if self.weight.dim() != 5:
            return  # nn.Conv2d's constructor calls this before the layer's own parameters exist
        bound = 1 / math.sqrt(self.in_channels * self.in_rotations * math.prod(self.kernel_size))
        for name, parameter in self.named_parameters(recurse=False):
            if name != "transformation_matrix":
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N_in, H, W]``, or ``[B, I, H, W]`` for lifting, → ``[B, O, N_out, H', W']``."""
        if self.in_rotations == 1:
            expanded = expand_lifting(self.weight, self.transformation_matrix, self.out_rotations)
        else:
            weight = self.pointwise_weight * self.weight if self.separable else self.weight
            expanded = expand_cyclic(weight, self.out_rotations)  # of [O, I, N_in, kh, kw]
        x = input.reshape(input.shape[0], self.in_channels * self.in_rotations, *input.shape[-2:])
        bias = None if self.bias is None else self.bias.repeat_interleave(self.out_rotations, 0)
        y = F.conv2d(x, fold(expanded), bias, self.stride, self.padding)
        features: Tensor = y.contiguous().unflatten(1, (self.out_channels, self.out_rotations))
        return features

    def extra_repr(self) -> str:
        kind = ", separable" if self.separable and self.in_rotations > 1 else ""
        return f"{super().extra_repr()}, rotations={self.in_rotations}→{self.out_rotations}{kind}"


CEConv2D = CEConv2d
"""The spelling of the layer's first releases."""
