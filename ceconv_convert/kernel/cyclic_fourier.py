"""A cyclic layer by the discrete Fourier transform over its rotations: m(N) products instead of N².

y_r = Σ_d w_d ∗ x_{(r+d) mod N} is a cyclic correlation, so that with X_k = Σ_j x_j e^{-iθkj},
W_k = Σ_d w_d e^{-iθkd}, θ = 2π/N, it is Y_k = conj(W_k) ∗ X_k and y_r = (1/N) Σ_k Y_k e^{iθkr}.
k = 0, and k = N/2 for even N, are real: one product each. A pair k, N-k is one complex product of three real
ones, Z = conj(W_k) X_k: of projections on three directions, a = 0, 120° and 240°. Re(P) Re(Q) is half of
Re(PQ) and half of Re(P conj(Q)); the latter does not depend on a here, and cancels in
    Z = 4/3 Σ_a e^{2ia} Re(X_k e^{-ia}) Re(conj(W_k) e^{-ia})
Directions that lie alike lose fewer digits than Gauss's 1, i and 1 + i; for N = 3, T is all halves.
With four products, real = a∗p - b∗q and imaginary = b∗p + a∗q, it is a product of pairs: twice the channels
in and out. For even N, k = 0 and k = N/2 make one too, with zeros across. Pairs take about 4/3 of the
multiplications and 2/3 of the features between the transforms, and fill up a block with half the channels.

In matrices: y = U · ((V w) ∗ (T x)), T [g·b, N] on the input, V [g, b, b, N] on the weight, U [N, g·b] on the
products; g convolutions, each of b · I → b · O channels; b is 2 for pairs and else 1.
No approximation is involved: Σ_gac U[r, ga] V[g, a, c, d] T[gc, j] is 1 where j = (r + d) mod N, else 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.spec import CyclicSpec, KernelSpec


@dataclass(frozen=True, eq=False)
class Transform:
    """The three matrices, float64.

    Attributes:
        forward: T, ``[m, N]``, m = g · b.
        weight: V, ``[g, b, b, N]``.
        inverse: U, ``[N, m]``.
    """

    forward: Tensor
    weight: Tensor
    inverse: Tensor

    @property
    def products(self) -> int:
        """m, the features between the transforms, for each of the layer's."""
        return self.forward.shape[0]

    @property
    def groups(self) -> int:
        """g, the number of convolutions."""
        return self.weight.shape[0]


def products_of(rotations: int) -> int:
    """m(N) = 1 + [N even] + 3·⌊(N - 1)/2⌋.

    >>> [products_of(n) for n in (2, 3, 4, 5, 6, 8, 10, 12)]
    [2, 4, 5, 7, 8, 11, 14, 17]
    """
    return 1 + (rotations % 2 == 0) + 3 * ((rotations - 1) // 2)


def transform_of(rotations: int, width: int = 1) -> Transform:
    """T, V and U for N ``rotations``; ``width`` is b: 1, or 2 for products of pairs.

    Raises:
        SpecError: for fewer than two rotations, or an odd number of them where the width is 2.

    >>> [transform_of(10, width).groups for width in (1, 2)]
    [14, 5]
    """
    if rotations < 2:
        raise SpecError(f"the Fourier form needs at least 2 rotations, found {rotations}")
    if width == 2:
        return _pairs(rotations)
    rows = [_real(rotations, 0)]
    if rotations % 2 == 0:
        rows.append(_real(rotations, rotations // 2))
    for frequency in range(1, (rotations + 1) // 2):
        rows += _three_products(rotations, frequency)
    forward, weight, inverse = (torch.stack(row) for row in zip(*rows, strict=True))
    return Transform(forward, weight[:, None, None], inverse.T.contiguous())


def _pairs(rotations: int) -> Transform:
    """N/2 products of pairs: k = 0 with k = N/2, and the real with the imaginary part of all others."""
    if rotations % 2:
        raise SpecError(f"products of pairs need an even number of rotations, found {rotations}")
    (ones, zeros), (signs, _) = _waves(rotations, 0), _waves(rotations, rotations // 2)
    forward, inverse = [ones, signs], [ones / rotations, signs / rotations]
    blocks = [ones, zeros, zeros, signs]
    for frequency in range(1, rotations // 2):
        cos, sin = _waves(rotations, frequency)
        forward += [cos, -sin]
        inverse += [2 * cos / rotations, -2 * sin / rotations]
        blocks += [cos, -sin, sin, cos]
    weight = torch.stack(blocks).reshape(-1, 2, 2, rotations)
    return Transform(torch.stack(forward), weight, torch.stack(inverse, dim=1))


def transform_weight(weight: Tensor, transform: Transform) -> Tensor:
    """``[O, I, N, kh, kw]`` → ``[g, b, O, b, I, kh, kw]``, in its dtype.

    Flattened to ``[g·b·O, b·I, kh, kw]`` it is the weight of a convolution with g groups. Formed in float64,
    and rounded once.
    """
    factors = transform.weight.to(weight.device)
    return torch.einsum("gacd,oidhw->gaocihw", factors, weight.double()).to(weight.dtype)


def applies(spec: KernelSpec) -> bool:
    """Whether the layer is a cyclic one with as many rotations out as in, and more than one."""
    return isinstance(spec, CyclicSpec) and spec.in_rotations == spec.out_rotations >= 2


def transform_bias(bias: Tensor, inverse: Tensor) -> Tensor:
    """``[O]`` → ``[m·O]``: to the product of frequency 0, which all rotations have alike in U ``[N, m]``."""
    rest = bias.new_zeros((inverse.shape[1] - 1) * bias.shape[0])
    return torch.cat([bias / inverse[0, 0], rest])


def _waves(rotations: int, frequency: int) -> tuple[Tensor, Tensor]:
    """cos(θkj) and sin(θkj), ``[N]`` each, float64."""
    angles = [2 * math.pi * (frequency * index % rotations) / rotations for index in range(rotations)]
    cos, sin = ([function(angle) for angle in angles] for function in (math.cos, math.sin))
    return torch.tensor(cos, dtype=torch.float64), torch.tensor(sin, dtype=torch.float64)


def _real(rotations: int, frequency: int) -> tuple[Tensor, Tensor, Tensor]:
    """The product of k = 0, or of k = N/2, where e^{iθkj} is (-1)^j."""
    signs, _ = _waves(rotations, frequency)
    return signs, signs, signs / rotations


def _three_products(rotations: int, frequency: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Those of k and N - k, in three directions."""
    cos, sin = _waves(rotations, frequency)
    rows = []
    for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3):
        forward, weight = math.cos(a) * cos - math.sin(a) * sin, math.cos(a) * cos + math.sin(a) * sin
        inverse = math.cos(2 * a) * cos - math.sin(2 * a) * sin
        rows.append((forward, weight, 8 / (3 * rotations) * inverse))
    return rows
