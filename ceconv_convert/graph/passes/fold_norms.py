"""Fold a batch norm into the Fourier layer before it.

Layer and norm are, per output channel o with s = γ/√(var + ε) and t = β - μ s:
    s · (U · (V w ∗ T x + b₀)) + t = U · ((s V w) ∗ T x + s b₀) + t
A scale per channel commutes with the transforms over the rotations; t goes to the product of frequency 0,
which every rotation has with the same factor U[:, 0]. In float64, rounded once.
"""

from __future__ import annotations

import numpy as np
import onnx

from ceconv_convert.graph.passes.index import GraphIndex, attribute

SWAP = [0, 2, 1, 3, 4]
"""Rotations and channels change places: ``[B, N, C, H, W]`` ↔ ``[B, C, N, H, W]``."""


def fold_norms(index: GraphIndex) -> int:
    """Fold every batch norm that directly follows a Fourier layer; how many there were."""
    return sum(_fold(index, node) for node in list(index.nodes) if node.op_type == "BatchNormalization")


def _fold(index: GraphIndex, norm: onnx.NodeProto) -> bool:
    chain = _layer_before(index, norm)
    numbers = [index.constant(name) for name in norm.input[1:5]]
    if chain is None or any(array is None for array in numbers):
        return False
    convolution, inverse, transpose = chain
    gamma, beta, mean, variance = (np.asarray(array) for array in numbers)
    weight, factors = index.constant(convolution.input[1]), index.constant(inverse.input[1])
    if weight is None or factors is None or not np.all(factors[:, 0] == factors[0, 0]):
        return False
    products = factors.shape[1]
    epsilon = attribute(norm, "epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else float(str(epsilon))))
    shift = beta - mean * scale
    each = np.tile(scale, products)
    bias = np.zeros(len(each))
    if len(convolution.input) > 2:
        found = index.constant(convolution.input[2])
        if found is None:
            return False
        bias = found * each
    bias[: len(shift)] += shift / factors[0, 0].item()
    name, dtype = convolution.input[1], index.dtype_of(convolution.input[1])
    folded = index.add_constant(name, (weight * each[:, None, None, None]).astype(dtype))
    del convolution.input[1:]
    convolution.input.extend([folded, index.add_constant(f"{name}_bias", bias.astype(dtype))])
    index.remove(norm)
    transpose.output[0] = norm.output[0]
    return True


def _layer_before(
    index: GraphIndex, norm: onnx.NodeProto
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """The grouped convolution, the inverse transform and the transpose that a norm takes, and nobody else."""
    transpose = index.producer(norm.input[0])
    if transpose is None or transpose.op_type != "Transpose" or attribute(transpose, "perm") != SWAP:
        return None
    inverse = index.producer(transpose.input[0])
    if inverse is None or inverse.op_type != "Conv" or len(inverse.input) != 2:
        return None
    reshape = index.producer(inverse.input[0])
    if reshape is None or reshape.op_type != "Reshape":
        return None
    convolution = index.producer(reshape.input[0])
    if convolution is None or convolution.op_type != "Conv":
        return None
    values = (norm.input[0], transpose.input[0], inverse.input[0], reshape.input[0])
    factors = index.constant(inverse.input[1])
    if factors is None or factors.ndim != 5 or factors.shape[2:] != (1, 1, 1):
        return None
    if attribute(convolution, "group") != factors.shape[1] or not all(map(index.is_inner, values)):
        return None
    return convolution, inverse, transpose
