"""What every replacing layer has in common."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.kernel.rotation_major import give_features, take_features
from ceconv_convert.kernel.spec import KernelSpec, split_padding


class TargetLayer(nn.Module):
    """A converted layer; mixed into a torch convolution.

    Channels and rotations are those of the layer that it replaces: callers may read them.
    """

    form: str  # the name of its row in the table of forms
    in_channels: int
    out_channels: int
    in_rotations: int
    out_rotations: int
    separable = False  # the factors are multiplied
    group_major = False  # whether features are flat, rotations first
    padding_excess: tuple[int, int, int, int]
    """Zeros (left, right, top, bottom) beyond the symmetric padding, which a torch convolution cannot add by
    itself; all 0 except for ``padding="same"`` with an even kernel."""

    def take_over(self, spec: KernelSpec, **parameters: Tensor | None) -> None:
        """Set what is the same for every form, and the parameters, after the torch convolution's own."""
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels
        self.in_rotations, self.out_rotations = spec.in_rotations, spec.out_rotations
        self.group_major = spec.group_major
        _, self.padding_excess = split_padding(spec.padding)
        for name, tensor in parameters.items():
            self.register_parameter(name, None if tensor is None else _as_parameter(tensor))

    def take(self, x: Tensor) -> Tensor:
        """The input as ``[B, I, N_in, H, W]``."""
        return take_features(x, self.in_channels, self.in_rotations, self.group_major)

    def give(self, y: Tensor) -> Tensor:
        """``[B, O, N_out, H', W']`` as the layer gives it, contiguous."""
        return give_features(y, self.group_major).contiguous()

    def pad_excess(self, x: Tensor) -> Tensor:
        """``[…, H, W]`` with the zeros of ``padding_excess`` around it."""
        return F.pad(x, self.padding_excess) if any(self.padding_excess) else x

    def extra_repr(self) -> str:
        rotations = f"rotations={self.in_rotations}→{self.out_rotations}"
        return f"{super().extra_repr()}, form={self.form}, {rotations}"


def without_numbers(spec: KernelSpec) -> dict[str, Any]:
    """Arguments of a torch convolution whose parameters follow: it draws no random numbers for its own."""
    return {"bias": False, "device": "meta", "dtype": spec.dtype}


def _as_parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter itself, so that what was tied to it stays tied; else one with the tensor's numbers."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    numbers = tensor.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(numbers, requires_grad=tensor.requires_grad)
