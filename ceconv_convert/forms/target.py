"""What every replacing layer has in common."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ceconv_convert.kernel.spec import KernelSpec, Pair


class TargetLayer(nn.Module):
    """A converted layer; mixed into a torch convolution.

    Channels and rotations are those of the layer that it replaces: callers may read them.

    Attributes:
        form: the name of its row in the table of forms.
        separable: False: the factors are multiplied.
        padding_excess: zeros ``(left, right, top, bottom)`` beyond the symmetric padding, which a torch
            convolution cannot add by itself; all 0 except for ``padding="same"`` with an even kernel.
    """

    form: str
    in_channels: int
    out_channels: int
    in_rotations: int
    out_rotations: int
    separable = False
    padding_excess: tuple[int, int, int, int]

    def take_over(self, spec: KernelSpec) -> None:
        """Set what is the same for every form."""
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels
        self.in_rotations, self.out_rotations = spec.in_rotations, spec.out_rotations
        (top, bottom), (left, right) = spec.padding
        rows, columns = symmetric_padding(spec)
        self.padding_excess = (left - columns, right - columns, top - rows, bottom - rows)

    def pad_excess(self, x: Tensor) -> Tensor:
        """``[…, H, W]`` with the zeros of ``padding_excess`` around it."""
        return F.pad(x, self.padding_excess) if any(self.padding_excess) else x


def without_numbers(spec: KernelSpec) -> dict[str, Any]:
    """Arguments of a torch convolution whose parameters follow: it draws no random numbers for its own."""
    return {"bias": False, "device": "meta", "dtype": spec.dtype}


def symmetric_padding(spec: KernelSpec) -> Pair:
    """The zeros that rows and columns have on both of their sides."""
    rows, columns = spec.padding
    return (min(rows), min(columns))


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter with the tensor's numbers and ``requires_grad``.

    A parameter stays the very same one, so that what was tied to it stays tied.
    """
    if isinstance(tensor, nn.Parameter):
        return tensor
    numbers = tensor.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(numbers, requires_grad=tensor.requires_grad)
