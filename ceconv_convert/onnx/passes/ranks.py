"""Rotation-major features in the ranks that operators take, ``[B, N·C', H, W]`` and ``[B, N, C', H, W]``."""

from __future__ import annotations

import onnx_ir as ir

from ceconv_convert.onnx.notes import FLAT, Layout, notes
from ceconv_convert.onnx.passes.editing import add_constant, insert


def in_rank(before: ir.Node, value: ir.Value, rank: int, layout: Layout) -> ir.Value:
    """``value`` in a rank; height and width stay dynamic."""
    if notes(value).rank == rank:
        return value
    middle = (layout.rotations * layout.padded,) if rank == FLAT else (layout.rotations, layout.padded)
    size = notes(value).size
    if size.value is None:  # of this value: another one of the same size may be inside of a fused operator
        size.value = insert(before, "Shape", [value], {"start": notes(value).rank - 2})
    head = add_constant(before, "shape_" + "_".join(map(str, middle)), [0, *middle])  # 0: the batch, as it is
    shape = insert(before, "Concat", [head, size.value], {"axis": 0})
    return noted(insert(before, "Reshape", [value, shape]), rank, value)


def noted(value: ir.Value, rank: int, as_large_as: ir.Value | None = None) -> ir.Value:
    """``value``, with a note on its rank, and on another value of the same height and width."""
    notes(value).rank = rank
    if as_large_as is not None:
        notes(value).size = notes(as_large_as).size
    return value
