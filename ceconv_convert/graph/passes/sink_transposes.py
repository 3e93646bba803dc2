"""Move transposes of rotations and channels behind what does not care, until two of them meet and vanish.

f(xᵀ) = f(x)ᵀ for a pointwise f; xᵀ + yᵀ = (x + y)ᵀ; xᵀ + y = (x + yᵀ)ᵀ; (xᵀ)ᵀ = x; and a maximum over one
axis of xᵀ is one over the other axis of x. What remains lies at the borders of a region that works in the
layout ``[B, N, C, H, W]``: at its entrances one transpose each, and none where it ends in coset pooling.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ceconv_convert.graph.passes.fold_norms import SWAP
from ceconv_convert.graph.passes.index import GraphIndex, attribute

_POINTWISE = frozenset(
    ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish", "Gelu")
)
_REDUCTIONS = frozenset(("ReduceMax", "ReduceMean"))


def sink_transposes(index: GraphIndex) -> int:
    """Rewrite until nothing moves any more; how many rewrites there were."""
    count = 0
    while any(_rewrite(index, node) for node in list(index.nodes)):
        count += 1
    return count


def _rewrite(index: GraphIndex, node: onnx.NodeProto) -> bool:
    if node not in index.nodes:
        return False
    if node.op_type == "Transpose":
        return _cancel(index, node)
    if node.op_type in _POINTWISE:
        return _sink_unary(index, node)
    if node.op_type in ("Add", "Mul"):
        return _sink_binary(index, node)
    return node.op_type in _REDUCTIONS and _absorb(index, node)


def _swapped(index: GraphIndex, value: str) -> str | None:
    """What ``value`` is the transpose of; None where it is none."""
    producer = index.producer(value)
    if producer is None or producer.op_type != "Transpose" or attribute(producer, "perm") != SWAP:
        return None
    return str(producer.input[0])


def _cancel(index: GraphIndex, node: onnx.NodeProto) -> bool:
    inner = _swapped(index, node.input[0])
    if inner is None or attribute(node, "perm") != SWAP or index.is_output(node.output[0]):
        return False
    takers = index.consumers(node.output[0])
    index.replace_uses(node.output[0], inner, takers)
    index.remove(node)
    return True


def _sink_unary(index: GraphIndex, node: onnx.NodeProto) -> bool:
    inner = _swapped(index, node.input[0])
    if inner is None:
        return False
    node.input[0] = inner
    _transpose_behind(index, node)
    return True


def _sink_binary(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Where one side is swapped; the other is swapped too, by a transpose that it may have already."""
    inner = [_swapped(index, value) for value in node.input]
    if not any(inner) or node.output[0] in index.settled:
        return False
    for position, value in enumerate(list(node.input)):
        found = inner[position]
        if found is None:
            if _rank(index, value) != len(SWAP):
                return False
            found = _transposed(index, value)
        inner[position] = found
    node.input[:] = [value for value in inner if value is not None]
    _transpose_behind(index, node)
    index.settled.add(node.output[0])  # the transpose at its entrance must not pull it back
    return True


def _absorb(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """A reduction over axis 1 or 2 takes the other one."""
    inner = _swapped(index, node.input[0])
    axes = index.constant(node.input[1]) if len(node.input) > 1 else None
    if inner is None or axes is None or attribute(node, "keepdims") != 0 or axes.tolist() not in ([1], [2]):
        return False
    other = index.add_constant(node.input[1], np.array([3 - int(axes[0])], dtype=np.int64))
    node.input[:] = [inner, other]
    return True


def _transpose_behind(index: GraphIndex, node: onnx.NodeProto) -> None:
    """Let ``node`` give another value, and a transpose of it what it gave before."""
    result = node.output[0]
    node.output[0] = index.fresh(f"{result}_swapped")
    index.insert_after(node, helper.make_node("Transpose", [node.output[0]], [result], perm=SWAP))


def _transposed(index: GraphIndex, value: str) -> str:
    """The transpose of ``value``: one that there is, or a new one."""
    for taker in index.consumers(value):
        if taker.op_type == "Transpose" and attribute(taker, "perm") == SWAP:
            return str(taker.output[0])
    producer = index.producer(value)
    if producer is None:
        raise ValueError(f"{value} is no inner value")
    name = index.fresh(f"{value}_swapped")
    index.insert_after(producer, helper.make_node("Transpose", [value], [name], perm=SWAP))
    return name


def _rank(index: GraphIndex, value: str) -> int | None:
    """The rank of an inner value, where the graph says; None for inputs and constants."""
    if index.producer(value) is None:
        return None
    info = next((info for info in index.graph.value_info if info.name == value), None)
    return None if info is None else len(info.type.tensor_type.shape.dim)
