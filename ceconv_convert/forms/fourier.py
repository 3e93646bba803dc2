"""``form="fourier"``: the rotations of a cyclic layer in frequencies, m(N) convolutions in place of N².

y = U · conv2d(T · x, V · w): two small transforms over the rotations around m convolutions.
Exact for N_in = N_out ≥ 2; other layers are written as ``conv3d``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.errors import SpecError
from ceconv_convert.forms import conv3d
from ceconv_convert.forms.target import TargetLayer, as_parameter, symmetric_padding
from ceconv_convert.kernel.cyclic_fourier import (
    applies,
    products_of,
    transform_bias,
    transform_of,
    transform_weight,
)
from ceconv_convert.kernel.rotation_major import split_planes
from ceconv_convert.kernel.spec import KernelSpec


class FourierConv2d(TargetLayer, nn.Conv2d):
    """A cyclic layer of N rotations: ``[B, I, N, H, W]`` → ``[B, O, N, H', W']``.

    Weight ``[m·O, I, kh, kw]``: the m products' kernels, transformed in float64. Bias ``[O]``.
    """

    form = "fourier"
    forward_transform: Tensor
    inverse_transform: Tensor

    def __init__(self, spec: KernelSpec) -> None:
        if not applies(spec):
            raise SpecError(
                "the Fourier form is of cyclic layers with as many rotations out as in, and at least 2, "
                f"found {spec.in_rotations} and {spec.out_rotations}"
            )
        transform = transform_of(spec.in_rotations)
        super().__init__(
            transform.products * spec.in_channels,
            transform.products * spec.out_channels,
            spec.kernel_size,
            stride=spec.stride,
            padding=symmetric_padding(spec),
            groups=transform.products,
            bias=False,
            device="meta",  # the spec's parameters follow; draw no random numbers for these
            dtype=spec.dtype,
        )
        self.take_over(spec)
        self.weight = as_parameter(transform_weight(spec.weight, transform).flatten(0, 2).flatten(1, 2))
        self.bias = None if spec.bias is None else as_parameter(spec.bias)
        forward, inverse = (
            matrix.to(spec.weight.device, spec.dtype) for matrix in (transform.forward, transform.inverse)
        )
        self.register_buffer("forward_transform", forward, persistent=False)
        self.register_buffer("inverse_transform", inverse, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or planes ``[B, I·N, H, W]``, → ``[B, O, N, H', W']``."""
        x = split_planes(input, self.in_channels, self.in_rotations).transpose(1, 2)  # [B, N, I, H, W]
        # Matrix products and a convolution for each product: torch is slow at 1×1×1 Conv3d and at groups.
        frequencies = torch.matmul(self.forward_transform, x.flatten(2))  # [B, m, I·H·W]
        planes = torch.unflatten(frequencies, 2, x.shape[2:]).flatten(1, 2)  # [B, m·I, H, W]
        y = torch.stack(
            [
                F.conv2d(part, kernel, bias, self.stride, self.padding)
                for part, kernel, bias in zip(
                    self.pad_excess(planes).chunk(self.groups, 1),
                    self.weight.chunk(self.groups, 0),
                    self._biases(),
                    strict=True,
                )
            ],
            dim=1,
        )  # [B, m, O, H', W']
        features = torch.matmul(self.inverse_transform, y.flatten(2))  # [B, N, O·H'·W']
        return torch.unflatten(features, 2, y.shape[2:]).transpose(1, 2).contiguous()

    def _biases(self) -> list[Tensor | None]:
        """One ``[O]`` a product."""
        if self.bias is None:
            return [None] * self.groups
        return list(transform_bias(self.bias, self.inverse_transform).chunk(self.groups))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, Fourier rotations={self.in_rotations}→{self.out_rotations}"


def build(spec: KernelSpec) -> nn.Module:
    """The Fourier layer of a spec, or where it does not apply, the Conv3d layer."""
    return FourierConv2d(spec) if applies(spec) else conv3d.build(spec)


def shapes(spec: KernelSpec) -> dict[str, torch.Size]:
    """The state dict's shapes of the layer that ``build`` makes."""
    if not applies(spec):
        return conv3d.shapes(spec)
    rows = products_of(spec.in_rotations) * spec.out_channels
    found = {"weight": torch.Size((rows, spec.in_channels, *spec.kernel_size))}
    if spec.bias is not None:
        found["bias"] = spec.bias.shape
    return found
