"""Color matrices of lifting layers.

A hue rotation rotates RGB by θ about the grey axis u = (1, 1, 1)/√3 (Rodrigues):
``M(θ) = cos θ · 1 + (1 - cos θ) · u uᵀ + sin θ · [u]×``. For θ = 120° it sends R to G, G to B and B to R.
Lengyel et al., "Color Equivariant Convolutional Networks", NeurIPS 2023, section 3.2.
"""

import math
from typing import Literal

import torch
from torch import Tensor

ColorOrder = Literal["same", "cycle", "other"]
"""How a matrix moves the colors: not at all, R → G → B → R, or in another way."""
_EPS = torch.finfo(torch.float32).eps


def hue_rotation_matrix(rotations: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix M of a hue rotation by 360°/``rotations``, ``[3, 3]``.

    >>> hue_rotation_matrix(3).abs().round().int().tolist()
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    """
    return rotation_about_grey(360 / rotations).to(dtype)


def rotation_about_grey(degrees: float) -> Tensor:
    """The matrix of a hue rotation by any angle, ``[3, 3]``, float64, on the CPU.

    Also within ``torch.device("meta")``, where arithmetic would import torch's compiler: two seconds.
    """
    angle = math.radians(degrees)
    with torch.device("cpu"):
        cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
        grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
        identity = torch.eye(3, dtype=torch.float64)
    return math.cos(angle) * identity + (1 - math.cos(angle)) * grey + math.sin(angle) * cross


def matrix_powers(matrix: Tensor, count: int) -> Tensor:
    """M⁰ … M^(count-1), ``[count, 3, 3]``, in the dtype of ``matrix``.

    The products are formed in float64: rounding once is closer to exact than rounding at each power.
    """
    exact = matrix.to(torch.float64)
    powers = [torch.eye(3, dtype=torch.float64, device=matrix.device)]
    for _ in range(count - 1):
        powers.append(exact @ powers[-1])
    return torch.stack(powers).to(matrix.dtype)


def color_order(matrix: Tensor, tolerance: float = 4 * _EPS) -> ColorOrder:
    """How the colors lie in the Conv3d weight of a lifting layer with this matrix.

    The tolerance is the same for every dtype: casting a state dict does not change how it is read.

    >>> [color_order(hue_rotation_matrix(n)) for n in (1, 3, 4)]
    ['same', 'cycle', 'other']
    """
    exact = matrix.detach().cpu().to(torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    orders: dict[ColorOrder, Tensor] = {"same": identity, "cycle": identity.roll(1, dims=0)}
    for order, permutation in orders.items():
        if (exact - permutation).abs().max() <= tolerance:
            return order
    return "other"


def order_of_powers(matrix: Tensor, rotations: int) -> ColorOrder:
    """The order whose powers those of ``matrix`` are, up to rounding: M⁰ … M^(rotations-1).

    A lifting layer with ``same`` or ``cycle`` is a cyclic layer over nothing, or over its colors.
    """
    # Zeros and ones are exact in every dtype: few digits are no excuse to take another matrix for this one.
    eps = min(torch.finfo(matrix.dtype).eps, _EPS)
    return color_order(matrix, 3 * eps / max(2, rotations - 1))  # powers multiply the difference


def rotations_of(matrix: Tensor, most: int = 64) -> int | None:
    """N where ``matrix`` rotates colors by 360°/N about some axis, N ≤ ``most``; else None.

    A rotation by θ has trace 1 + 2 cos θ, and its N-th power is the identity: learned matrices have neither.
    None, too, where a dtype of few digits leaves several N possible.

    >>> [rotations_of(hue_rotation_matrix(n)) for n in (1, 2, 3, 12)], rotations_of(torch.ones(3, 3))
    ([1, 2, 3, 12], None)
    """
    exact = matrix.detach().cpu().to(torch.float64)
    tolerance = 16 * torch.finfo(matrix.dtype).eps
    power = identity = torch.eye(3, dtype=torch.float64)
    found = []
    for rotations in range(1, most + 1):
        power = power @ exact
        returns = bool((power - identity).abs().max() <= rotations * tolerance)
        angle = 2 * math.pi / rotations
        if returns and abs(float(exact.trace()) - 1 - 2 * math.cos(angle)) <= 3 * tolerance:
            found.append(rotations)
    return found[0] if len(found) == 1 else None
