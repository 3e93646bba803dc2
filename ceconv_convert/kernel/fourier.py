"""A cyclic layer by the discrete Fourier transform over its rotations: m(N) products instead of N².

y_r = Σ_d w_d ∗ x_{(r+d) mod N} is a cyclic correlation, so that with X_k = Σ_j x_j e^{-iθkj},
W_k = Σ_d w_d e^{-iθkd}, θ = 2π/N, it is Y_k = conj(W_k) ∗ X_k and y_r = (1/N) Σ_k Y_k e^{iθkr}.
k = 0, and k = N/2 for even N, are real: one product each. A pair k, N-k is one complex product; with
X_k = p + iq and conj(W_k) = a + ib, by Gauss: k1 = a∗(p+q), k2 = (b-a)∗p, k3 = (a+b)∗q,
real = k1 - k3, imaginary = k1 + k2. For N = 3 the four products are those of the sum and of three
differences, which need no irrational numbers.

In matrices: y = U · ((V w) ∗ (T x)), T [m, N] on the input, V [m, N] on the weight, U [N, m] on the products.
No approximation is involved: Σ_m U[r, m] V[m, d] T[m, j] is 1 where j = (r + d) mod N, and 0 elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True, eq=False)
class Transform:
    """The three matrices, float64.

    Attributes:
        forward: T, ``[m, N]``.
        weight: V, ``[m, N]``.
        inverse: U, ``[N, m]``.
    """

    forward: Tensor
    weight: Tensor
    inverse: Tensor

    @property
    def products(self) -> int:
        """m, the number of convolutions."""
        return self.forward.shape[0]


def products_of(rotations: int) -> int:
    """m(N) = 1 + [N even] + 3·⌊(N - 1)/2⌋.

    >>> [products_of(n) for n in (2, 3, 4, 5, 6, 8, 10, 12)]
    [2, 4, 5, 7, 8, 11, 14, 17]
    """
    return 1 + (rotations % 2 == 0) + 3 * ((rotations - 1) // 2)


def transform_of(rotations: int) -> Transform:
    """T, V and U for N ``rotations``.

    Raises:
        SpecError: for fewer than two.
    """
    if rotations < 2:
        raise SpecError(f"the Fourier form needs at least 2 rotations, found {rotations}")
    if rotations == 3:
        return _three()
    rows: list[tuple[list[float], list[float], list[float]]] = [_real(rotations, 0)]
    if rotations % 2 == 0:
        rows.append(_real(rotations, rotations // 2))
    for frequency in range(1, (rotations + 1) // 2):
        rows += _pair(rotations, frequency)
    forward, weight, inverse = (torch.tensor(row, dtype=torch.float64) for row in zip(*rows, strict=True))
    return Transform(forward, weight, inverse.T.contiguous())


def transform_weight(weight: Tensor) -> Tensor:
    """``[O, I, N, kh, kw]`` → ``[m·O, I, kh, kw]``, the weight of a convolution with m groups, in its dtype.

    Formed in float64 and rounded once.
    """
    transform = transform_of(weight.shape[2]).weight.to(weight.device)
    exact = torch.einsum("md,oidhw->moihw", transform, weight.double())
    return exact.flatten(0, 1).to(weight.dtype)


def applies(spec: KernelSpec) -> bool:
    """Whether the layer is a cyclic one with as many rotations out as in, and more than one."""
    return spec.kind == "cyclic" and spec.in_rotations == spec.out_rotations >= 2


def transform_bias(bias: Tensor, inverse: Tensor) -> Tensor:
    """``[O]`` → ``[m·O]``: to the product of frequency 0, which all rotations have alike in U ``[N, m]``."""
    rest = bias.new_zeros((inverse.shape[1] - 1) * bias.shape[0])
    return torch.cat([bias / inverse[0, 0], rest])


def _real(rotations: int, frequency: int) -> tuple[list[float], list[float], list[float]]:
    """The product of k = 0, or of k = N/2, where e^{iθkj} is (-1)^j."""
    signs = [-1.0 if frequency and index % 2 else 1.0 for index in range(rotations)]
    return signs, signs, [sign / rotations for sign in signs]


def _pair(rotations: int, frequency: int) -> list[tuple[list[float], list[float], list[float]]]:
    """The three products of k and N - k."""
    angles = [2 * math.pi * (frequency * index % rotations) / rotations for index in range(rotations)]
    cos, sin = [math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]
    pairs = list(zip(cos, sin, strict=True))
    scale = 2 / rotations
    return [
        ([c - s for c, s in pairs], cos, [scale * (c - s) for c, s in pairs]),
        (cos, [s - c for c, s in pairs], [-scale * s for s in sin]),
        ([-s for s in sin], [c + s for c, s in pairs], [-scale * c for c in cos]),
    ]


def _three() -> Transform:
    """N = 3: of the sum x0 + x1 + x2 and three differences; y_r is the sum of all - 3 · one of them."""
    forward = [[1, 1, 1], [1, -1, 0], [0, 1, -1], [-1, 0, 1]]
    thirds = [[1, 1, 1], [0, -1, 1], [-1, 1, 0], [1, 0, -1]]
    inverse = [[1, 1, 1, -2], [1, 1, -2, 1], [1, -2, 1, 1]]
    return Transform(
        torch.tensor(forward, dtype=torch.float64),
        torch.tensor(thirds, dtype=torch.float64) / 3,
        torch.tensor(inverse, dtype=torch.float64),
    )
