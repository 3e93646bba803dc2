"""The layer as one plain 2-D convolution over all rotations.

lifting:  W[o, r] = M^r · w[o, :, 0]
cyclic:   W[o, r, c, j] = w[o, c, (j - r) mod N_in]

Lengyel et al., NeurIPS 2023, equations 8 and 9; layout as in the published implementation.
"""

import torch
from torch import Tensor

from ceconv_convert.kernel.color import matrix_powers
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec


def expand_lifting(weight: Tensor, matrix: Tensor, out_rotations: int) -> Tensor:
    """``[O, I, 1, kh, kw]`` → ``[O, N_out, I, 1, kh, kw]``: the kernel in every color rotation.

    One rotation is the kernel itself, whatever its channels: M⁰ = 1.
    """
    if out_rotations == 1:
        return weight.unsqueeze(1)
    powers = matrix_powers(matrix, out_rotations).to(weight.dtype)  # [N_out, 3, 3]
    return torch.einsum("rij,ojnhw->orinhw", powers, weight)  # [O, N_out, 3, 1, kh, kw]


def expand_cyclic(weight: Tensor, out_rotations: int) -> Tensor:
    """``[O, I, N_in, kh, kw]`` → ``[O, N_out, I, N_in, kh, kw]``: the kernel rolled once a rotation.

    >>> expand_cyclic(torch.arange(3.0).view(1, 1, 3, 1, 1), 4).squeeze().int().tolist()
    [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 1, 2]]
    """
    rotations = weight.shape[2]
    if torch.is_grad_enabled() and weight.requires_grad:
        return torch.stack([weight.roll(r, dims=2) for r in range(out_rotations)], dim=1)
    twice = torch.cat([weight, weight], dim=2)  # faster forward, slower backward
    starts = [rotations - r % rotations for r in range(out_rotations)]
    return torch.stack([twice.narrow(2, start, rotations) for start in starts], dim=1)


def fold(expanded: Tensor) -> Tensor:
    """``[O, N_out, I, N_in, kh, kw]`` → ``[O·N_out, I·N_in, kh, kw]``: a ``conv2d`` weight."""
    return expanded.flatten(2, 3).flatten(0, 1)


def expand(spec: KernelSpec) -> Tensor:
    """The ``conv2d`` weight of a layer, ``[O·N_out, I·N_in, kh, kw]``, in the layer's dtype.

    Formed in float64 and rounded once.
    """
    weight = spec.weight.to(torch.float64)
    if isinstance(spec, LiftingSpec):
        expanded = expand_lifting(weight, spec.matrix.to(torch.float64), spec.out_rotations)
    else:
        expanded = expand_cyclic(weight, spec.out_rotations)
    return fold(expanded).to(spec.dtype)
