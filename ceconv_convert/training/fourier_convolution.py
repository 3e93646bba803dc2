"""A cyclic layer by a Fourier transform over its rotations, for training the published parameters.

y = U · conv2d(T · x, W), W = V · w: the matrices are those of ``kernel/cyclic_fourier.py``. A separable
layer's product is not formed: V · (pointwise · spatial) = (V · pointwise) · spatial. The backward pass takes
Uᵀ · dy through the convolutions, and then Tᵀ; it computes T · x anew, since that is larger than x.

m products of I → O channels are one grouped convolution, m single ones, or m matrix products of patches with
the weights, whichever is fastest. All three keep channels innermost.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.kernel.cyclic_fourier import transform_of
from ceconv_convert.kernel.spec import Pair

Way = Literal["grouped", "single", "patches"]
Matrix = tuple[tuple[float, ...], ...]
Transforms = tuple[Matrix, Matrix, Matrix]
"""T ``[m, N]``, V ``[m, N]`` and U ``[N, m]``."""

_MANY_CHANNELS = 160
"""From so many on, the library's grouped convolution is slower than one convolution after another."""
_PAGE = 256
"""Planes of a multiple of so many numbers share few sets of the cache, when channels are moved innermost."""


def transforms_of(rotations: int) -> Transforms:
    """The three matrices as numbers, which a compiler takes for constants."""
    forward, weight, inverse = transform_of(rotations)
    return tuple(tuple(map(tuple, matrix.tolist())) for matrix in (forward, weight[:, 0, 0], inverse))  # type: ignore[return-value]


def transformed_weight(weight: Tensor, pointwise: Tensor | None, transforms: Transforms) -> Tensor:
    """V · w, ``[m, O, kh, kw, I]``, of ``[O, I, N, kh, kw]``, or of factors with N = 1 and kh = kw = 1."""
    v = weight.new_tensor(transforms[1])  # [m, N]
    if pointwise is None:
        rows = weight.permute(2, 0, 3, 4, 1)  # [N, O, kh, kw, I]
        return torch.matmul(v, rows.flatten(1)).view(-1, *rows.shape[1:])
    factor = torch.matmul(v, pointwise.flatten(2).permute(2, 0, 1).flatten(1))  # [m, O·I]
    spatial = weight.squeeze(2).permute(0, 2, 3, 1).contiguous()  # [O, kh, kw, I or 1]
    return factor.view(len(v), pointwise.shape[0], 1, 1, -1) * spatial


def fourier_convolution(
    x: Tensor, weight: Tensor, transforms: Transforms, stride: Pair, padding: Pair
) -> Tensor:
    """``[B, I, N, H, W]`` and V · w, ``[m, O, kh, kw, I]``, → ``[B, O, N, H', W']``, contiguous."""
    forward, inverse = x.new_tensor(transforms[0]), x.new_tensor(transforms[2])
    y: Tensor = _FourierConvolution.apply(x, weight, forward, inverse, stride, padding)
    return y


class _FourierConvolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, forward: Tensor, inverse: Tensor, stride: Pair, padding: Pair
    ) -> Tensor:
        way = _way(x, weight, stride, padding)
        return _join(_products(_split(x, forward, way), weight, stride, padding, way), inverse, way)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, forward, inverse = ctx.saved_tensors
        way = _way(x, weight, ctx.stride, ctx.padding)
        mixed, dy = _split(x, forward, way), _split(gradient, inverse.t(), way)
        wanted = ctx.needs_input_grad[:2]
        dx, dw = _products_backward(dy, mixed, weight, ctx.stride, ctx.padding, way, wanted)
        return (None if dx is None else _join(dx, forward.t(), way), dw, None, None, None, None)


def _way(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Way:
    """What is fastest: for few positions the weights cost the most, and patches leave them as they are."""
    sizes = zip(x.shape[3:], padding, weight.shape[2:4], stride, strict=True)
    rows, columns = ((n + 2 * p - k) // s + 1 for n, p, k, s in sizes)
    channels = max(weight.shape[1], weight.shape[4])
    if 2 * x.shape[0] * rows * columns < channels:
        return "patches"
    return "grouped" if channels < _MANY_CHANNELS else "single"


def _split(x: Tensor, matrix: Tensor, way: Way) -> Tensor:
    """``[B, C, N, H, W]``, mixed by ``[m, N]`` → ``[B, H, W, m, C]`` if grouped, else ``[m, B, H, W, C]``."""
    batch, channels, _, rows, columns = x.shape
    if rows * columns % _PAGE == 0:
        x = F.pad(x, (0, 0, 0, 1))
    mixed = torch.matmul(matrix, x.flatten(3).flatten(0, 1))  # [B·C, m, H·W]
    mixed = mixed.view(batch, channels, len(matrix), -1, columns)[..., :rows, :]
    return mixed.permute((0, 3, 4, 2, 1) if way == "grouped" else (2, 0, 3, 4, 1)).contiguous()


def _join(products: Tensor, matrix: Tensor, way: Way) -> Tensor:
    """The way back: mixed by ``[N, m]``, → ``[B, C, N, H, W]``."""
    products = products.permute((0, 4, 3, 1, 2) if way == "grouped" else (1, 4, 0, 2, 3))  # [B, C, m, H, W]
    batch, channels, _, rows, columns = products.shape
    mixed = torch.matmul(matrix, products.flatten(3).flatten(0, 1))  # [B·C, N, H·W]
    return mixed.view(batch, channels, len(matrix), rows, columns)


def _products(mixed: Tensor, weight: Tensor, stride: Pair, padding: Pair, way: Way) -> Tensor:
    """M products of what ``_split`` gives with ``[m, O, kh, kw, I]``, in the same layout."""
    if way == "grouped":
        groups, kernels = len(weight), weight.flatten(0, 1).permute(0, 3, 1, 2)
        y = F.conv2d(mixed.flatten(3).permute(0, 3, 1, 2), kernels, None, stride, padding, 1, groups)
        return torch.unflatten(y.permute(0, 2, 3, 1), 3, (groups, -1))
    if way == "single":
        pairs = zip(_as_images(mixed), _as_images(weight), strict=True)
        outputs = [F.conv2d(x, w, None, stride, padding).permute(0, 2, 3, 1) for x, w in pairs]
        return torch.stack(outputs)
    patches = _patches(mixed, weight.shape[2:4], stride, padding)  # [m, B, H', W', kh, kw, I]
    y = torch.bmm(patches.flatten(4).flatten(1, 3), weight.flatten(2).transpose(1, 2))
    return y.view(*patches.shape[:4], -1)


def _products_backward(
    dy: Tensor, mixed: Tensor, weight: Tensor, stride: Pair, padding: Pair, way: Way, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``mixed`` and of ``weight``, in their layouts; None where not ``wanted``."""

    def backward(dy: Tensor, x: Tensor, w: Tensor, groups: int = 1) -> list[Tensor | None]:
        options = (None, stride, padding, (1, 1), False, (0, 0), groups, (*wanted, False))
        found = torch.ops.aten.convolution_backward(dy, x, w, *options)[:2]
        return [
            each.permute(0, 2, 3, 1) if asked else None for each, asked in zip(found, wanted, strict=True)
        ]

    dx = dw = None
    if way == "grouped":
        groups, kernels = len(weight), weight.flatten(0, 1).permute(0, 3, 1, 2)
        images = [each.flatten(3).permute(0, 3, 1, 2) for each in (dy, mixed)]
        dx, dw = backward(images[0], images[1], kernels, groups)
        dx = None if dx is None else torch.unflatten(dx, 3, (groups, -1))
        return dx, None if dw is None else torch.unflatten(dw, 0, (groups, -1))
    if way == "single":
        each = zip(_as_images(dy), _as_images(mixed), _as_images(weight), strict=True)
        stacks = zip(*(backward(*tensors) for tensors in each), strict=True)
        dx, dw = (torch.stack(found) if asked else None for found, asked in zip(stacks, wanted, strict=True))
        return dx, dw
    flat, kernels = dy.flatten(1, 3), weight.flatten(2)  # [m, P, O], [m, O, kh·kw·I]
    if wanted[1]:
        patches = _patches(mixed, weight.shape[2:4], stride, padding)
        dw = torch.bmm(flat.transpose(1, 2), patches.flatten(4).flatten(1, 3)).view(weight.shape)
    if wanted[0]:
        spread = torch.bmm(flat, kernels).view(*dy.shape[:4], *weight.shape[2:])
        dx = _sum_patches(spread, mixed.shape[2:4], stride, padding)
    return dx, dw


def _as_images(channels_last: Tensor) -> Sequence[Tensor]:
    """``[m, B, H, W, C]`` → m tensors ``[B, C, H, W]``."""
    return channels_last.permute(0, 1, 4, 2, 3).unbind()


def _patches(mixed: Tensor, kernel: Sequence[int], stride: Pair, padding: Pair) -> Tensor:
    """``[m, B, H, W, I]`` → ``[m, B, H', W', kh, kw, I]``."""
    padded = F.pad(mixed, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return windows.permute(0, 1, 2, 3, 5, 6, 4).contiguous()


def _sum_patches(patches: Tensor, size: Sequence[int], stride: Pair, padding: Pair) -> Tensor:
    """The transpose of ``_patches``."""
    products, batch, rows, columns, kh, kw, channels = patches.shape
    (h, w), (sh, sw), (ph, pw) = size, stride, padding
    total = patches.new_zeros(products, batch, h + 2 * ph, w + 2 * pw, channels)
    for i in range(kh):
        for j in range(kw):
            into = total[:, :, i : i + sh * (rows - 1) + 1 : sh, j : j + sw * (columns - 1) + 1 : sw]
            into += patches[:, :, :, :, i, j]
    return total[:, :, ph : ph + h, pw : pw + w]
