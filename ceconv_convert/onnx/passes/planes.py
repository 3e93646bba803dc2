"""Values that are planes, and the borders around them: what enters a region, and what leaves it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ceconv_convert.onnx.dialect import DOMAIN, FROM_PLANES, TO_PLANES, Planes, is_dialect
from ceconv_convert.onnx.passes.tools import insert, integer, replace


def planes_of(value: ir.Value | None) -> Planes | None:
    """What kind of planes ``value`` is; None where it is none."""
    found = None if value is None else value.meta.get("planes")
    return found if isinstance(found, Planes) else None


def entrance(before: ir.Node, x: ir.Value | None, kind: Planes) -> ir.Value:
    """Features ``[B, C, N, H, W]`` as planes."""
    planes = insert(before, TO_PLANES, [x], domain=DOMAIN)
    planes.meta["planes"] = kind
    return planes


def entered(x: ir.Value | None, kind: Planes) -> ir.Value | None:
    """The planes that ``x`` is made for another layer already; None where it is not."""
    takers = () if x is None else x.consumers()
    found = (taker.outputs[0] for taker in takers if is_dialect(taker, TO_PLANES))
    return next((planes for planes in found if planes_of(planes) == kind), None)


def leave(before: ir.Node, planes: ir.Value, *, flat: bool) -> ir.Value:
    """Planes as features ``[B, C, N, H, W]`` or ``[B, C·N, H, W]``, of the shape that ``before`` gives."""
    return insert(before, FROM_PLANES, [planes], {"flat": int(flat)}, domain=DOMAIN, like=before.outputs[0])


def origin_of(value: ir.Value | None) -> tuple[ir.Value, Planes, bool] | None:
    """The planes that ``value`` is a view of, and whether it is flat."""
    node = None if value is None else value.producer()
    if node is None or not is_dialect(node, FROM_PLANES) or node.inputs[0] is None:
        return None
    kind = planes_of(node.inputs[0])
    return None if kind is None else (node.inputs[0], kind, bool(integer(node, "flat")))


def through(node: ir.Node, inputs: Sequence[ir.Value | None], kind: Planes, *, flat: bool) -> bool:
    """Put the same operator on planes in the place of ``node``, and an exit behind it."""
    moved = insert(node, node.op_type, inputs)
    producer = moved.producer()
    if producer is None:
        return False
    for attribute in node.attributes.values():
        producer.attributes[attribute.name] = attribute
    moved.meta["planes"] = kind
    replace(node, leave(node, moved, flat=flat))
    return True
