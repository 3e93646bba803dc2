"""The boundaries of a rotation-major region: the nodes that features enter and leave it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ceconv_convert.onnx.dialect import DOMAIN, FROM_MAJOR, TO_MAJOR, is_dialect
from ceconv_convert.onnx.notes import SPLIT, Layout, layout_of, notes
from ceconv_convert.onnx.passes.editing import insert, replace


@dataclass(frozen=True, eq=False)
class View:
    """What a ``FromRotationMajor`` node has: its rotation-major ``source``, and the rank of its output."""

    source: ir.Value
    layout: Layout
    rank: int


def view_of(value: ir.Value | None) -> View | None:
    """The rotation-major source of ``value``; None where no ``FromRotationMajor`` node makes it."""
    node = None if value is None else value.producer()
    if node is None or not is_dialect(node, FROM_MAJOR) or node.inputs[0] is None:
        return None
    layout = layout_of(node.inputs[0])
    return None if layout is None else View(node.inputs[0], layout, node.attributes.get_int("rank", SPLIT))


def enter(before: ir.Node, x: ir.Value, layout: Layout) -> ir.Value:
    """Features ``[B, C, N, H, W]`` as rotation-major, by a node that is there already, or a new one."""
    for taker in x.consumers():
        if is_dialect(taker, TO_MAJOR) and layout_of(taker.outputs[0]) == layout:
            return taker.outputs[0]
    major = insert(before, TO_MAJOR, [x], domain=DOMAIN)
    notes(major).layout = layout
    return major


def leave(before: ir.Node, major: ir.Value, rank: int) -> ir.Value:
    """Rotation-major features in the usual layout, in the place of what ``before`` makes."""
    return insert(before, FROM_MAJOR, [major], {"rank": rank}, domain=DOMAIN, like=before.outputs[0])


def move_inside(node: ir.Node, inputs: Sequence[ir.Value | None], layout: Layout, rank: int) -> bool:
    """Replace ``node`` by the same operator on rotation-major ``inputs``, with a boundary behind it."""
    major = insert(node, node.op_type, inputs, node.attributes)
    notes(major).layout = layout
    replace(node, leave(node, major, rank))
    return True
