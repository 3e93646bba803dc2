"""A lifting layer by what a hue rotation does: it fixes the grey axis and turns a plane.

M^r = G + cos(rθ) P + sin(rθ) K, θ = 2π/N, with G = uuᵀ on the grey axis u, P = 1 - G, K = [u]×. Hence
    y_r = (G w) ∗ x + cos(rθ) · (P w) ∗ x + sin(rθ) · (K w) ∗ x
for any N: three kernels a channel instead of N, and a transform [N, 3] on what they give.
The three matrices are read from the stored one by least squares, so that the stored matrix stays the truth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ceconv_convert.kernel.color import matrix_powers
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec

PARTS = 3


def hue_transform(rotations: int) -> Tensor:
    """``[N, 3]``: 1, cos(rθ) and sin(rθ), float64."""
    angles = [2 * math.pi * r / rotations for r in range(rotations)]
    return torch.tensor([[1.0, math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)


def hue_parts(matrix: Tensor, rotations: int) -> tuple[Tensor, float]:
    """G, P and K of the stored matrix, ``[3, 3, 3]``, float64, and how far its powers are from them."""
    powers = matrix_powers(matrix.double(), rotations).flatten(1)  # [N, 9]
    transform = hue_transform(rotations)
    parts = torch.linalg.lstsq(transform, powers).solution  # [3, 9]
    return parts.unflatten(1, (3, 3)), float((transform @ parts - powers).abs().max())


def applies(spec: KernelSpec) -> bool:
    """Whether a lifting layer's matrix is a hue rotation, up to roundings, to more than three rotations.

    With three, three kernels a channel are what the layer has anyway.
    """
    if not isinstance(spec, LiftingSpec) or spec.out_rotations <= PARTS:
        return False
    _, distance = hue_parts(spec.matrix, spec.out_rotations)
    return distance <= 2 * torch.finfo(torch.float32).eps


def hue_weight(spec: LiftingSpec) -> Tensor:
    """``[3·O, 3, kh, kw]``, float64: the kernels G w, P w and K w, part by part."""
    parts, _ = hue_parts(spec.matrix, spec.out_rotations)
    kernels = torch.einsum("pij,ojhw->poihw", parts, spec.weight[:, :, 0].double())
    return kernels.flatten(0, 1)
