"""Reading and changing a graph: constants, and nodes in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]
Attributes = Mapping[str, int | float | str | Sequence[int]]


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None where ``value`` is none."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def is_scalar(value: ir.Value | None, rank: int) -> bool:
    """Whether ``value`` is absent, or a constant of one number that leaves a value of ``rank`` its rank."""
    if value is None:
        return True
    numbers = constant(value)
    return numbers is not None and numbers.size == 1 and numbers.ndim <= rank


def is_finite(value: ir.Value | None) -> bool:
    """Whether ``value`` is no constant, or one of finite numbers."""
    numbers = constant(value)
    return numbers is None or bool(np.isfinite(numbers).all())


def add_constant(graph: ir.Graph, name: str, numbers: Array) -> ir.Value:
    """A further initializer, under ``name`` or a name made from it."""
    count, fresh = 0, name
    while fresh in graph.initializers:
        count += 1
        fresh = f"{name}_{count}"
    value = ir.val(fresh, const_value=ir.tensor(np.ascontiguousarray(numbers), name=fresh))
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Attributes | None = None,
    *,
    domain: str = "",
    like: ir.Value | None = None,
) -> ir.Value:
    """A node with one output, put before another; the output, of the shape and dtype of ``like``."""
    node = ir.node(op_type, inputs, attributes, domain=domain)
    (output,) = node.outputs
    if like is not None:
        output.shape, output.type = like.shape, like.type
    if before.graph is None:
        raise ValueError(f"{before.name} is in no graph")
    before.graph.insert_before(before, [node])
    return output


def replace(node: ir.Node, output: ir.Value) -> None:
    """Let ``output`` stand for the first output of ``node``, which goes."""
    old = node.outputs[0]
    if output.shape is None and output.type is None:
        output.shape, output.type = old.shape, old.type
    if old.is_graph_output():
        output.name = old.name
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def is_taken(value: ir.Value) -> bool:
    """Whether a node takes ``value``, or the graph gives it."""
    return bool(value.uses()) or value.is_graph_output()


def integers(node: ir.Node, name: str, default: Sequence[int] = ()) -> list[int]:
    """An attribute that is a list of integers."""
    attribute = node.attributes.get(name)
    return list(default if attribute is None else attribute.as_ints())


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """An attribute that is an integer."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def shape_of(value: ir.Value | None) -> list[int | str] | None:
    """The dims, numbers or names; None where they are not all known."""
    if value is None or value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return None if any(dim is None for dim in dims) else [dim for dim in dims if dim is not None]
