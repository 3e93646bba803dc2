"""A cyclic layer as a circular 3-D convolution.

With the rotations as depth, and p zeros of *circular* padding on the left,
``y[o, r] = Σ_{c, k} v[o, c, k] ∗ x[c, (r + k - p) mod N]`` where ``v = roll(w, p)`` along the rotations.
For N = 3 and p = 1 that is the weight ``w[:, :, (2, 0, 1)]``. p = (N - 1) // 2, so that for odd N the
padding is the same on both sides and a plain circular ``nn.Conv3d`` takes the weight as it is.
"""

import torch
from torch import Tensor

from ceconv_convert.kernel.color import ColorOrder, order_of_powers
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec


def left_padding(rotations: int) -> int:
    """p, the circular padding on the left of N ``rotations``."""
    return (rotations - 1) // 2


def to_circular(weight: Tensor) -> Tensor:
    """The circular kernel v of w, ``[O, I, N, kh, kw]``: rolled by p along the rotations.

    >>> to_circular(torch.arange(3).view(1, 1, 3, 1, 1)).flatten().tolist()
    [2, 0, 1]
    """
    return weight.roll(left_padding(weight.shape[2]), dims=2)


def from_circular(weight: Tensor) -> Tensor:
    """The kernel w of v, the inverse of ``to_circular``."""
    return weight.roll(-left_padding(weight.shape[2]), dims=2)


def wrap(x: Tensor, out_rotations: int) -> Tensor:
    """Circular padding of ``[B, C, N, H, W]`` along the rotations, for ``out_rotations`` outputs.

    Gives ``[B, C, N + min(N, out_rotations) - 1, H, W]``: what a kernel N deep needs, no more.
    Only slices and one concatenation, which every runtime has.

    >>> wrap(torch.arange(4.0).view(1, 1, 4, 1, 1), 4).flatten().int().tolist()
    [3, 0, 1, 2, 3, 0, 1]
    """
    rotations = x.shape[2]
    left = left_padding(rotations)
    right = min(rotations, out_rotations) - 1 - left
    parts = [x[:, :, rotations - left :]] if left else []
    parts.append(x if right >= 0 else x[:, :, :right])
    if right > 0:
        parts.append(x[:, :, :right])
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def unroll(y: Tensor, out_rotations: int) -> Tensor:
    """``[B, O, N, H, W]`` → ``[B, O, out_rotations, H, W]``: rotations past N are the first ones again."""
    rotations = y.shape[2]
    if out_rotations <= rotations:
        return y
    times, rest = divmod(out_rotations, rotations)
    return torch.cat([y] * times + ([y[:, :, :rest]] if rest else []), dim=2)


def is_cyclic(spec: KernelSpec) -> bool:
    """Whether the layer is a circular convolution.

    A lifting layer is one over its three colors where its matrix permutes them, and trivially, over one
    rotation, where its matrix leaves them alone or does not see three.
    """
    if not isinstance(spec, LiftingSpec) or spec.in_channels != 3:
        return True
    return order_of_powers(spec.matrix, spec.out_rotations) != "other"


def lifting_conv3d_weight(weight: Tensor, order: ColorOrder) -> Tensor:
    """``[O, I, 1, kh, kw]`` → a Conv3d's, by the order of its colors alone: a state dict has nothing else.

    ``cycle``: ``[O, 1, 3, kh, kw]``, rolled; ``other``: the same, unpermuted; ``same``, or where there are
    not three colors: the weight as it is.
    """
    if weight.shape[1] != 3 or order == "same":
        return weight
    colors = weight.transpose(1, 2)
    return to_circular(colors) if order == "cycle" else colors


def from_lifting_conv3d_weight(weight: Tensor, order: ColorOrder) -> Tensor:
    """The inverse of ``lifting_conv3d_weight``."""
    if weight.shape[2] == 1:
        return weight
    colors = from_circular(weight) if order == "cycle" else weight  # [O, 1, 3, kh, kw]
    return colors.transpose(1, 2)
