"""A layer as one grouped convolution between two mixes of rotations: y = U · conv(T · x).

Every form that the graph compiler writes is one of these; they differ in the groups and in T and U alone.
Here are two; ``kernel/cyclic_fourier.py`` has the others.

expanded: all rotations of the kernel written out, T = U = 1.

hue: a lifting layer whose matrix is a hue rotation has three kernels a channel for any number of rotations.
A hue rotation fixes the grey axis u and rotates the plane across it:
    M^r = G + cos(rθ) P + sin(rθ) K, θ = 2π/N, with G = uuᵀ, P = 1 - G, K = [u]×, hence
    y_r = (G w) ∗ x + cos(rθ) · (P w) ∗ x + sin(rθ) · (K w) ∗ x
G, P and K are fitted to the powers of the stored matrix by least squares: its numbers are what counts.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.color import matrix_powers
from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec


@dataclass(frozen=True, eq=False)
class Factored:
    """The factors, for g groups of b·I → a·O channels."""

    weight: Tensor  # [g, a, O, b, I, kh, kw]
    bias: Tensor | None  # [g·a, O]
    forward: Tensor | None = None  # T, [g·b, N_in]; None: the convolution takes the rotations as they are
    inverse: Tensor | None = None  # U, [N_out, g·a]; None: it gives the rotations as they are


def expanded_factors(spec: KernelSpec) -> Factored:
    """All rotations of the kernel written out: one group of N_in·I → N_out·O channels."""
    weight = torch.unflatten(expand(spec), 0, (-1, spec.out_rotations))
    weight = torch.unflatten(weight, 2, (-1, spec.in_rotations))  # [O, N_out, I, N_in, kh, kw]
    bias = None if spec.bias is None else spec.bias.expand(spec.out_rotations, -1)
    return Factored(weight.permute(1, 0, 3, 2, 4, 5).unsqueeze(0), bias)


def bias_of_first(bias: Tensor | None, products: int) -> Tensor | None:
    """``[O]`` → ``[products, O]``: the bias on the first product, zeros on the others."""
    return None if bias is None else F.pad(bias.unsqueeze(0), (0, 0, 0, products - 1))


_PARTS = 3


def hue_factors(spec: KernelSpec) -> Factored:
    """One group of 3 → 3·O channels, and U ``[N, 3]``: 1, cos(rθ), sin(rθ); SpecError if it does not lift."""
    if not isinstance(spec, LiftingSpec):
        raise SpecError("the hue form is of lifting layers")
    transform, parts, _ = _fit(spec)
    kernels = torch.einsum("pij,ojhw->poihw", parts, spec.weight[:, :, 0].double()).to(spec.dtype)
    bias = bias_of_first(spec.bias, _PARTS)
    return Factored(kernels[None, :, :, None], bias, inverse=transform)


def hue_applies(spec: KernelSpec) -> bool:
    """Whether a layer lifts to more than three rotations, by a hue rotation up to two eps of float32.

    With three rotations, the expanded layer has no more than three kernels a channel either.
    """
    if not isinstance(spec, LiftingSpec) or spec.out_rotations <= _PARTS:
        return False
    return _fit(spec)[2] <= 2 * torch.finfo(torch.float32).eps


def _fit(spec: LiftingSpec) -> tuple[Tensor, Tensor, float]:
    """U ``[N, 3]``; G, P and K ``[3, 3, 3]``; and the largest error of the matrix's powers. In float64."""
    rotations = spec.out_rotations
    angles = [2 * math.pi * r / rotations for r in range(rotations)]
    transform = torch.tensor([[1.0, math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)
    powers = matrix_powers(spec.matrix.detach().double(), rotations).flatten(1)  # [N, 9]
    parts = torch.linalg.lstsq(transform, powers).solution  # [3, 9]
    return transform, parts.unflatten(1, (3, 3)), float((transform @ parts - powers).abs().max())
