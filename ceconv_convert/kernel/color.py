"""Color matrices of lifting layers.

A hue rotation turns RGB by θ about the grey axis u = (1, 1, 1)/√3 (Rodrigues):
``M(θ) = cos θ · 1 + (1 - cos θ) · u uᵀ + sin θ · [u]×``. For θ = 120° it sends R to G, G to B and B to R.
Lengyel et al., "Color Equivariant Convolutional Networks", NeurIPS 2023, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ceconv_convert.errors import SpecError


def hue_rotation_matrix(rotations: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix M of a hue rotation by 360°/``rotations``, ``[3, 3]``.

    >>> hue_rotation_matrix(3).abs().round().int().tolist()
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]]

    Raises:
        SpecError: for fewer than one rotation.
    """
    if rotations < 1:
        raise SpecError(f"a hue circle has at least 1 rotation, found {rotations}")
    angle = 2 * math.pi / rotations
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    matrix = math.cos(angle) * identity + (1 - math.cos(angle)) * grey + math.sin(angle) * cross
    return matrix.to(dtype)


def matrix_powers(matrix: Tensor, count: int) -> Tensor:
    """M⁰ … M^(count-1), ``[count, 3, 3]``, in the dtype of ``matrix``.

    The products are formed in float64: rounding once is closer to exact than rounding at each power.
    """
    exact = matrix.to(torch.float64)
    powers = [torch.eye(3, dtype=torch.float64, device=matrix.device)]
    for _ in range(count - 1):
        powers.append(exact @ powers[-1])
    return torch.stack(powers).to(matrix.dtype)


def is_color_cycle(matrix: Tensor) -> bool:
    """Whether ``matrix`` permutes R → G → B → R, up to four roundings of float32, or of float64.

    Such a lifting layer is a cyclic layer over the color axis, N_in = 3.

    >>> is_color_cycle(hue_rotation_matrix(3)), is_color_cycle(hue_rotation_matrix(4))
    (True, False)
    """
    return _is_close(matrix, torch.eye(3, dtype=torch.float64).roll(1, dims=0))


def is_identity(matrix: Tensor) -> bool:
    """Whether ``matrix`` leaves colors alone, up to four roundings of float32, or of float64.

    >>> is_identity(hue_rotation_matrix(1)), is_identity(hue_rotation_matrix(2))
    (True, False)
    """
    return _is_close(matrix, torch.eye(3, dtype=torch.float64))


def permutes_colors(matrix: Tensor) -> bool:
    """Whether ``matrix`` is one that a lifting layer needs no longer once its weight is laid out by it."""
    return is_color_cycle(matrix) or is_identity(matrix)


def rotations_of(matrix: Tensor, most: int = 64) -> int | None:
    """N where ``matrix`` turns colors by 360°/N about some axis, N ≤ ``most``; else None.

    A rotation by θ has trace 1 + 2 cos θ, and its N-th power is the identity: learned matrices have neither.
    None, too, where a dtype of few digits leaves several N possible.

    >>> [rotations_of(hue_rotation_matrix(n)) for n in (1, 2, 3, 12)], rotations_of(torch.ones(3, 3))
    ([1, 2, 3, 12], None)
    """
    exact = matrix.detach().cpu().to(torch.float64)
    tolerance = 16 * torch.finfo(matrix.dtype).eps
    power = torch.eye(3, dtype=torch.float64)
    found = []
    for rotations in range(1, most + 1):
        power = power @ exact
        returns = bool((power - torch.eye(3, dtype=torch.float64)).abs().max() <= rotations * tolerance)
        angle = 2 * math.pi / rotations
        if returns and abs(float(exact.trace()) - 1 - 2 * math.cos(angle)) <= 3 * tolerance:
            found.append(rotations)
    return found[0] if len(found) == 1 else None


def _is_close(matrix: Tensor, other: Tensor) -> bool:
    distance = (matrix.detach().cpu().to(torch.float64) - other).abs().max()
    # Zeros and ones are exact in every dtype: few digits are no excuse to take another matrix for this one.
    eps = min(torch.finfo(matrix.dtype).eps, torch.finfo(torch.float32).eps)
    return bool(distance <= 4 * eps)
