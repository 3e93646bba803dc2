"""The kernel spec: what a layer computes, as readers find it and forms write it.

A batch norm in eval mode is a part of the layer before it. Per output channel o, with s = γ/√(var + ε) and
t = β - μ s, it is y ↦ s·y + t, and commutes with everything that a layer does to its channels:
    s·(w ∗ x + b) + t = (s w) ∗ x + (s b + t)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeGuard, TypeVar

import torch
from torch import Tensor

from ceconv_convert.errors import SpecError, shown

MOST_ROTATIONS = 360
"""A degree of hue each; a larger number is damage, and would take too much memory."""
MOST_STRIDE, MOST_PADDING = 1024, 32
"""Of rows and columns; a larger kernel may have as much padding as its own size."""
_LARGEST = 10**100
_MOST_EXPANDED = 2**10
"""Numbers of a product for each number of its factors, as a kernel of 32×32 has; more is damage."""

SpecT = TypeVar("SpecT", bound="KernelSpec")
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""Zeros around the image: ``((top, bottom), (left, right))``."""


@dataclass(frozen=True, eq=False)
class KernelSpec:
    """What a color-equivariant layer computes: a ``LiftingSpec`` or a ``CyclicSpec``.

    B is the batch, I and O channels in and out, N_in and N_out rotations, kh × kw the kernel. ``weight`` is
    the effective one, ``[O, I, D, kh, kw]``: a separable layer's factors are multiplied. ``bias`` is ``[O]``
    or None, ``stride`` rows and columns, ``kind`` the layer's in the words of the paper. Whether a tensor
    ``requires_grad`` is part of the spec: converted layers keep it. Raises SpecError where shapes do not fit.
    """

    weight: Tensor
    bias: Tensor | None
    out_rotations: int
    stride: Pair
    padding: Padding
    kind: ClassVar[str]
    group_major: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_shape("a weight", self.weight, "[O, I, N, kh, kw]", self.weight.dim() == 5)
        if not self.weight.dtype.is_floating_point:
            raise SpecError(f"weights are floating point, found {self.weight.dtype}")
        if self.bias is not None:
            bias_fits = self.bias.shape == self.weight.shape[:1]
            _check_shape("a bias", self.bias, f"[{self.out_channels}]", bias_fits)
        most_padding = max(MOST_PADDING, *self.kernel_size)
        for name, numbers, least, most in (
            ("rotations in and out are", (self.in_rotations, self.out_rotations), 1, MOST_ROTATIONS),
            ("stride is", self.stride, 1, MOST_STRIDE),
            ("padding is", self.padding[0] + self.padding[1], 0, most_padding),
        ):
            if not all(least <= number <= most for number in numbers):
                raise SpecError(f"{name} {least} to {most}, found {numbers}")

    @property
    def in_rotations(self) -> int:
        return self.weight.shape[2]  # 1 of a lifting layer

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    @property
    def kernel_size(self) -> Pair:
        return (self.weight.shape[3], self.weight.shape[4])

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def input_shape(self, batch: int, size: Sequence[int]) -> tuple[int, ...]:
        """Of an input with height and width ``size``: what the layer's forward pass takes."""
        return (batch, self.in_channels, self.in_rotations, *size)

    def out_size(self, size: Sequence[int]) -> Pair:
        """(H', W') of an input of ``size`` (H, W); symbolic sizes stay symbolic."""
        extents = zip(size, self.padding, self.kernel_size, self.stride, strict=True)
        rows, columns = ((n + sum(zeros) - kernel) // stride + 1 for n, zeros, kernel, stride in extents)
        return (rows, columns)

    def map(self: SpecT, change: Callable[[Tensor], Tensor]) -> SpecT:
        """The same layer with ``change`` applied to every tensor."""
        found = vars(self).items()
        changed: dict[str, Any] = {name: change(t) for name, t in found if isinstance(t, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class LiftingSpec(KernelSpec):
    """``y[:, o, r] = conv2d(x, M^r · weight[o, :, 0]) + bias[o]``, r = 0 … N_out - 1.

    ``[B, I, H, W]`` → ``[B, O, N_out, H', W']``; weight ``[O, I, 1, kh, kw]``, M ``[3, 3]`` as stored.
    """

    matrix: Tensor
    kind = "lifting"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape("a lifting weight", self.weight, "[O, I, 1, kh, kw]", self.weight.shape[2] == 1)
        _check_shape("a color matrix", self.matrix, "[3, 3]", self.matrix.shape == (3, 3))
        if self.in_channels != 3 and self.out_rotations > 1:
            raise SpecError(f"a lifting layer sees 3 color channels, found in_channels={self.in_channels}")

    def input_shape(self, batch: int, size: Sequence[int]) -> tuple[int, ...]:
        return (batch, self.in_channels, *size)


@dataclass(frozen=True, eq=False)
class CyclicSpec(KernelSpec):
    """``y[:, o, r] = Σ_{c, j} conv2d(x[:, c, j], weight[o, c, (j - r) mod N_in]) + bias[o]``.

    ``[B, I, N_in, H, W]`` → ``[B, O, N_out, H', W']``; weight ``[O, I, N_in, kh, kw]``.
    """

    kind = "hidden"


class SeparableSpec(CyclicSpec):
    """A cyclic layer whose weight was stored as two factors."""

    kind = "separable"


class GroupMajorSpec(CyclicSpec):
    """A cyclic layer on flat features, rotations first: ``[B, N_in·I, H, W]`` → ``[B, N_out·O, H', W']``."""

    group_major = True

    def input_shape(self, batch: int, size: Sequence[int]) -> tuple[int, ...]:
        return (batch, self.in_rotations * self.in_channels, *size)


def _check_shape(what: str, tensor: Tensor, shape: str, fits: bool) -> None:
    if not fits:
        raise SpecError(f"{what} has shape {shape}, found {list(tensor.shape)}")


def normalize_pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    """An int or a pair as a pair.

    >>> normalize_pair(2), normalize_pair((1, 2))
    ((2, 2), (1, 2))
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, 2) or not all(is_number(count) for count in values):
        raise SpecError(f"expected an int or two ints, found {shown(value)}")
    return (values[0], values[-1])


def is_number(value: object) -> TypeGuard[int]:
    """Whether a value is an int that can be computed with and printed, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def normalize_padding(
    padding: str | int | tuple[int, ...] | list[int], kernel_size: Pair, stride: Pair
) -> Padding:
    """The padding arguments of ``nn.Conv2d`` as zeros on each side.

    ``"same"`` puts the odd zero at the bottom and on the right, as torch does.

    >>> normalize_padding("same", (3, 4), (1, 1))
    ((1, 1), (1, 2))
    """
    if padding == "same":
        if stride != (1, 1):
            raise SpecError(f"padding='same' needs stride 1, found {stride}")
        rows, columns = (((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel_size)
        return (rows, columns)
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        raise SpecError(f"padding is 'same', 'valid', an int or a pair, found {shown(padding)}")
    height, width = normalize_pair(padding)
    return ((height, height), (width, width))


def split_padding(padding: Padding) -> tuple[Pair, tuple[int, int, int, int]]:
    """The zeros that rows and columns have on both sides, and (left, right, top, bottom) beyond: ``F.pad``'s.

    >>> split_padding(((1, 1), (1, 2)))
    ((1, 1), (0, 1, 0, 0))
    """
    (top, bottom), (left, right) = padding
    rows, columns = min(top, bottom), min(left, right)
    return (rows, columns), (left - columns, right - columns, top - rows, bottom - rows)


def factors_problem(spatial: Sequence[int], pointwise: Sequence[int]) -> str | None:
    """Why two shapes are not those of a separable layer's factors; None where they are.

    ``[O, I, 1, kh, kw]`` and ``[O, I, N, 1, 1]``; older layers share one spatial factor among the input
    channels, which broadcasts.

    >>> factors_problem([8, 1, 1, 3, 3], [8, 4, 3, 1, 1]) is None
    True
    """
    found = f"found {list(spatial)} and {list(pointwise)}"
    fits = len(spatial) == len(pointwise) == 5 and tuple(pointwise[3:]) == (1, 1) and spatial[2] == 1
    if not fits or spatial[0] != pointwise[0] or spatial[1] not in (1, pointwise[1]):
        return f"they have the shapes [O, I, 1, kh, kw] and [O, I, N, 1, 1] for the same O and I, {found}"
    numbers = math.prod(pointwise) * spatial[3] * spatial[4]
    if numbers > _MOST_EXPANDED * (math.prod(spatial) + math.prod(pointwise)):
        return f"their product has {numbers} numbers, beyond all proportion, {found}"
    return None


def scale_and_shift(
    gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The scale s and shift t, ``[C]`` each, from γ, β, μ and the variance, ``[C]`` each.

    >>> one = torch.ones(1)
    >>> scale_and_shift(2 * one, 3 * one, one, 4 * one, 0.0)
    (tensor([1.]), tensor([2.]))
    """
    scale = gamma / torch.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def scaled(spec: KernelSpec, scale: Tensor, shift: Tensor | None) -> KernelSpec:
    """The layer whose output is ``scale · y + shift``, ``[O]`` each; None shifts nothing."""
    bias = None if spec.bias is None else spec.bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return replace(spec, weight=spec.weight * scale[:, None, None, None, None], bias=bias)
