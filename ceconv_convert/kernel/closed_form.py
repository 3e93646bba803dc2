"""The closed form, by moving the input instead of the weights: the reference's arithmetic.

lifting:  y[o, r] = conv2d((M^r)ᵀ · x, w[o]) + b[o]
cyclic:   y[o, r] = Σ_{c, d} conv2d(x[c, (r + d) mod N_in], w[o, c, d]) + b[o]

Equal to the definition in ``KernelSpec`` (substitute d = j - r; (M^r w)·x = w·(M^r)ᵀ x), and shares no step
with the forms, which move the weights: a mistake in one does not repeat in the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.kernel.rotation_major import give_features, take_features
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec


def evaluate(spec: KernelSpec, x: Tensor) -> Tensor:
    """``[B, I, N_in, H, W]``, or planes ``[B, I·N_in, H, W]``, → ``[B, O, N_out, H', W']``.

    A group-major layer's features are flat, rotations first.

    Computes in the dtype of ``x`` and the spec, which are the same.
    """
    features = take_features(x, spec.in_channels, spec.in_rotations, spec.group_major)
    (top, bottom), (left, right) = spec.padding
    features = F.pad(features, (left, right, top, bottom))
    kernel = spec.weight.flatten(1, 2)  # [O, I·N_in, kh, kw]
    outputs = []
    for _ in range(spec.out_rotations):
        outputs.append(F.conv2d(features.flatten(1, 2), kernel, spec.bias, spec.stride))
        if not isinstance(spec, LiftingSpec):
            features = features.roll(-1, dims=2)
        elif len(outputs) < spec.out_rotations:
            features = torch.einsum("ij,bi...->bj...", spec.matrix, features)
    return give_features(torch.stack(outputs, dim=2), spec.group_major)
