"""Reading and changing a graph: constants, nodes in their places, and the ranks of features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ceconv_convert.onnx.dialect import FLAT, Layout, notes

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None where ``value`` is none."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(before: ir.Node, name: str, numbers: Array | Sequence[int]) -> ir.Value:
    """A further initializer of the graph of ``before``, under ``name`` or a name made from it."""
    if before.graph is None:
        raise ValueError(f"{before.name} is in no graph")
    count, fresh = 0, name
    while fresh in before.graph.initializers:
        count += 1
        fresh = f"{name}_{count}"
    array = np.array(numbers, dtype=None if isinstance(numbers, np.ndarray) else np.int64)
    value = ir.val(fresh, const_value=ir.tensor(array, name=fresh))
    before.graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
) -> ir.Value:
    """The output of a new node, put before another, whose module it is of."""
    node = ir.node(op_type, inputs, attributes, domain=domain, metadata_props=dict(before.metadata_props))
    before.prepend(node)
    return node.outputs[0]


def replace(node: ir.Node, output: ir.Value) -> None:
    """Let ``output`` stand for the first output of ``node``, and remove the node."""
    old = node.outputs[0]
    if output.shape is None and output.type is None:
        output.shape, output.type = old.shape, old.type
    if old.is_graph_output():
        output.name = old.name
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def is_taken(value: ir.Value) -> bool:
    """Whether a node takes ``value``, or it is an output of the graph."""
    return bool(value.uses()) or value.is_graph_output()


def shape_of(value: ir.Value | None) -> list[int | str] | None:
    """The dims, numbers or names; None where they are not all known."""
    if value is None or value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return None if any(dim is None for dim in dims) else [dim for dim in dims if dim is not None]


def in_rank(before: ir.Node, value: ir.Value, rank: int, layout: Layout) -> ir.Value:
    """A rotation-major ``value`` in the rank FLAT or SPLIT; height and width stay dynamic."""
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
