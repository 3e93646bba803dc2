"""A mix of few rotations as sums and products of whole features, which OpenVINO fuses.

Its convolutions over the rotations pad three of them to the SIMD width, and change the features' layout.
"""

from functools import reduce

import onnx_ir as ir
from torch import Tensor

from ceconv_convert.onnx.dialect import FLAT
from ceconv_convert.onnx.passes.editing import Array, add_constant, insert, noted

MOST_ROTATIONS = 4
"""With more, the sums take longer than the convolution."""


def mix_elementwise(before: ir.Node, x: ir.Value, matrix: Tensor, channels: int, dtype: Array) -> ir.Value:
    """``[B, N·C, H, W]`` → ``[B, M·C, H, W]`` for ``matrix`` [M, N]; ``dtype`` is that of an empty array."""
    count = matrix.shape[1]
    sizes = add_constant(before, f"rotations_{count}_{channels}", [channels] * count)
    split = ir.node("Split", [x, sizes], {"axis": 1}, num_outputs=count)
    before.prepend(split)

    def added(terms: list[ir.Value]) -> ir.Value:
        return reduce(lambda first, second: insert(before, "Add", [first, second]), terms)

    rows = []
    for row in matrix.tolist():
        alike: dict[float, list[ir.Value]] = {}
        for factor, part in zip(row, split.outputs, strict=True):
            near = next((found for found in alike if abs(found - factor) < 1e-12), factor)
            alike.setdefault(near, []).append(part)
        terms = []
        for factor, parts in alike.items():
            number = add_constant(before, "factor", dtype.dtype.type(factor).reshape(1))
            if factor:
                terms.append(added(parts) if factor == 1 else insert(before, "Mul", [added(parts), number]))
        rows.append(added(terms))
    return noted(insert(before, "Concat", rows, {"axis": 1}), FLAT, x)
