"""``form="conv3d"``: rotations as depth, circular padding over them.

cyclic:   y = conv3d(wrap(x), roll(w, p)) with depth stride 1
lifting:  y = conv3d(stack of (M^r)ᵀ · x, w) with depth stride 3: since M^r · w meets x as w meets (M^r)ᵀ · x

The zeros around the image stay apart from the wrap: ``padding_mode="circular"`` of torch would wrap the
image too, so these layers wrap the rotations themselves and give torch the zeros alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.circular import as_cyclic, conv3d_weight, left_padding, unroll, wrap
from ceconv_convert.kernel.color import matrix_powers
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.modules.target import TargetLayer, as_parameter, symmetric_padding


class _DepthConv3d(TargetLayer, nn.Conv3d):
    """What the two share: a ``nn.Conv3d`` whose parameters come from a spec."""

    form = "conv3d"

    def __init__(self, spec: KernelSpec, depth_stride: int) -> None:
        weight = conv3d_weight(spec)
        out_channels, in_channels, *kernel_size = weight.shape
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size[0], kernel_size[1], kernel_size[2]),
            stride=(depth_stride, *spec.stride),
            padding=(0, *symmetric_padding(spec)),
            bias=spec.bias is not None,
            device="meta",  # the spec's parameters follow; draw no random numbers for these
            dtype=spec.dtype,
        )
        self.take_over(spec)
        self.weight = as_parameter(weight)
        self.bias = None if spec.bias is None else as_parameter(spec.bias)
        matrix = None if spec.matrix is None else as_parameter(spec.matrix)
        self.register_parameter("transformation_matrix", matrix)


class CircularConv3d(_DepthConv3d):
    """A cyclic layer: ``[B, I, N, H, W]`` → ``[B, O, N_out, H', W']``.

    Weight ``[O, I, N, kh, kw]``, rolled by (N - 1) // 2: for odd N without spatial padding, that of
    ``nn.Conv3d(I, O, (N, kh, kw), padding=((N - 1) // 2, 0, 0), padding_mode="circular")``.
    A lifting layer with the hue matrix of 120° has I = 1 and its three colors as rotations, and takes
    ``[B, 3, H, W]``. It carries its ``transformation_matrix`` along, unused, so that nothing is lost.
    """

    def __init__(self, spec: KernelSpec) -> None:
        if as_cyclic(spec) is None:
            raise SpecError("the lifting layer is not cyclic over its colors: build a ColorStackConv3d")
        super().__init__(spec, depth_stride=1)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or ``[B, 3, H, W]`` for lifting, → ``[B, O, N_out, H', W']``."""
        depth = self.kernel_size[0]
        x = input
        if x.dim() == 4 and self.in_channels == 1:
            x = x.unsqueeze(1)  # colors are the rotations
        elif x.dim() == 4:
            x = x.unsqueeze(2)  # one rotation
        elif x.shape[2] != depth:
            x = x.transpose(1, 2)  # one rotation of three colors
        x = self.pad_excess(wrap(x, self.out_rotations))
        y = F.conv3d(x, self.weight, self.bias, self.stride, self.padding)
        return unroll(y, self.out_rotations).contiguous()

    def extra_repr(self) -> str:
        rotations = f"circular rotations={self.in_rotations}→{self.out_rotations}"
        return f"{super().extra_repr()}, {rotations}, left={left_padding(self.kernel_size[0])}"


class ColorStackConv3d(_DepthConv3d):
    """A lifting layer with any color matrix: ``[B, 3, H, W]`` → ``[B, O, N_out, H', W']``.

    Weight ``[O, 1, 3, kh, kw]``, unpermuted, at depth stride 3 over the N_out recolored images.
    A learnable ``transformation_matrix`` goes on learning.
    """

    transformation_matrix: nn.Parameter

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__(spec, depth_stride=3)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, 3, H, W]`` or ``[B, 3, 1, H, W]`` → ``[B, O, N_out, H', W']``."""
        x = input if input.dim() == 4 else input.squeeze(2)
        powers = matrix_powers(self.transformation_matrix, self.out_rotations)  # [N_out, 3, 3]
        recolor = powers.transpose(1, 2).reshape(-1, 3, 1, 1)  # [N_out·3, 3, 1, 1]: (M^r)ᵀ as a 1×1 kernel
        stack = F.conv2d(x, recolor).unsqueeze(1)  # [B, 1, N_out·3, H, W]
        y = F.conv3d(self.pad_excess(stack), self.weight, self.bias, self.stride, self.padding)
        return y.contiguous()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, color matrix, rotations=1→{self.out_rotations}"


def build(spec: KernelSpec) -> nn.Module:
    """The Conv3d layer of a spec: circular where the layer is cyclic, the color stack elsewhere."""
    return ColorStackConv3d(spec) if as_cyclic(spec) is None else CircularConv3d(spec)


def shapes(spec: KernelSpec) -> dict[str, torch.Size]:
    """The state dict's shapes of the layer that ``build`` makes."""
    tensors = {"weight": conv3d_weight(spec), "bias": spec.bias, "transformation_matrix": spec.matrix}
    return {name: tensor.shape for name, tensor in tensors.items() if tensor is not None}
