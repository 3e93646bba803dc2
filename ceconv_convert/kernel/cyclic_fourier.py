"""A cyclic layer by the discrete Fourier transform over its rotations: about 3N/2 products instead of N².

y_r = Σ_d w_d ∗ x_{(r+d) mod N} is a cyclic correlation, so that with X_k = Σ_j x_j e^{-iθkj},
W_k = Σ_d w_d e^{-iθkd}, θ = 2π/N, it is Y_k = conj(W_k) ∗ X_k and y_r = (1/N) Σ_k Y_k e^{iθkr}.
k = 0, and k = N/2 for even N, are real: one product each. A pair k, N-k is one complex product of three real
ones, Z = conj(W_k) X_k: of projections on three directions, a = 0, 120° and 240°. Re(P) Re(Q) is half of
Re(PQ) and half of Re(P conj(Q)); the latter does not depend on a here, and cancels in
    Z = 4/3 Σ_a e^{2ia} Re(X_k e^{-ia}) Re(conj(W_k) e^{-ia})
Equally spaced directions lose fewer digits than Gauss's 1, i and 1 + i; for N = 3, T is all halves.
With four products, real = a∗p - b∗q and imaginary = b∗p + a∗q, it is a product of pairs: twice the channels
in and out. For even N, k = 0 and k = N/2 make one too, with zeros across. Pairs take about 4/3 of the
multiplications and 2/3 of the features between the transforms, and half the channels fill a channel block.

In matrices: y = U · ((V w) ∗ (T x)), T [g·b, N] on the input, V [g, b, b, N] on the weight, U [N, g·b] on the
products; g convolutions, each of b·I → b·O channels; b is 2 for pairs and else 1.
No approximation is involved: Σ_gac U[r, ga] V[g, a, c, d] T[gc, j] is 1 where j = (r + d) mod N, else 0.
"""

import math

import torch
from torch import Tensor

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.factored import Factored, bias_of_first
from ceconv_convert.kernel.spec import CyclicSpec, KernelSpec


def transform_of(rotations: int, width: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """T ``[g·b, N]``, V ``[g, b, b, N]`` and U ``[N, g·b]``, float64, for N ``rotations``.

    ``width`` is b: 1, or 2 for products of pairs. Raises SpecError for fewer than two rotations, or an odd
    number of them where the width is 2.

    >>> [len(transform_of(10, width)[1]) for width in (1, 2)]
    [14, 5]
    """
    if rotations < 2:
        raise SpecError(f"the Fourier form needs at least 2 rotations, found {rotations}")
    if width == 2:
        return _pairs(rotations)
    real = (0, rotations // 2) if rotations % 2 == 0 else (0,)
    rows = [(signs, signs, signs / rotations) for signs in (_angles(rotations, k).cos() for k in real)]
    for frequency in range(1, (rotations + 1) // 2):
        angles = _angles(rotations, frequency)
        for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3):
            inverse = 8 / (3 * rotations) * (angles + 2 * a).cos()
            rows.append(((angles + a).cos(), (angles - a).cos(), inverse))
    forward, weight, inverses = (torch.stack(row) for row in zip(*rows, strict=True))
    return forward, weight[:, None, None], inverses.T.contiguous()


def fourier_factors(spec: KernelSpec, width: int = 1) -> Factored:
    """The layer as g groups of b·I → b·O channels between T and U; the weight is rounded once.

    Raises SpecError where ``fourier_applies`` does not hold for the ``width``, b.
    """
    if not fourier_applies(spec, width):
        raise SpecError(
            "the Fourier form is of cyclic layers with as many rotations out as in, and at least 2, "
            f"found {spec.in_rotations} and {spec.out_rotations}"
        )
    forward, factors, inverse = transform_of(spec.in_rotations, width)
    kernels = spec.weight.double()
    weight = torch.einsum("gacd,oidhw->gaocihw", factors.to(kernels), kernels).to(spec.dtype)
    # All rotations have the bias alike: it is on the product of frequency 0, whose column in U is constant.
    bias = None if spec.bias is None else spec.bias / inverse[0, 0]
    return Factored(weight, bias_of_first(bias, len(forward)), forward, inverse)


def fourier_applies(spec: KernelSpec, width: int = 1) -> bool:
    """Whether the layer is cyclic with N rotations in and out, N > ``width`` and a multiple of it."""
    rotations = spec.in_rotations
    cyclic = isinstance(spec, CyclicSpec) and rotations == spec.out_rotations
    return cyclic and rotations > width and rotations % width == 0


def _pairs(rotations: int) -> tuple[Tensor, Tensor, Tensor]:
    """N/2 products of pairs: k = 0 with k = N/2, and the real with the imaginary part of all others."""
    if rotations % 2:
        raise SpecError(f"products of pairs need an even number of rotations, found {rotations}")
    ones, signs = torch.ones(rotations, dtype=torch.float64), _angles(rotations, rotations // 2).cos()
    forward, inverse = [ones, signs], [ones / rotations, signs / rotations]
    blocks = [ones, 0 * ones, 0 * ones, signs]
    for frequency in range(1, rotations // 2):
        angles = _angles(rotations, frequency)
        cos, sin = angles.cos(), angles.sin()
        forward += [cos, -sin]
        inverse += [2 * cos / rotations, -2 * sin / rotations]
        blocks += [cos, -sin, sin, cos]
    weight = torch.stack(blocks).reshape(-1, 2, 2, rotations)
    return torch.stack(forward), weight, torch.stack(inverse, dim=1)


def _angles(rotations: int, frequency: int) -> Tensor:
    """θkj for j = 0 … N - 1, below a full turn: ``[N]``, float64."""
    return 2 * math.pi * (frequency * torch.arange(rotations) % rotations).double() / rotations
