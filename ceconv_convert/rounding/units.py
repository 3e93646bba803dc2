"""What is rounded in one piece: a color-equivariant layer, or another operator that has a weight."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from ceconv_convert.onnx.boundaries import boundaries_of

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")
"""They vanish in an int8 file: the range of the numbers before them does what they do."""
_MIX = (1, 1, 1)
"""The kernel of a transform over the rotations."""


@dataclass(frozen=True)
class Unit:
    """A layer of a float32 file, with the names of its input, its output, and its nodes that have weights.

    The output is that of the activation behind the layer, if it has one of its own.
    """

    name: str
    input: str
    output: str
    nodes: tuple[str, ...]


def units_of(model: onnx.ModelProto) -> list[Unit]:
    """All of a file, in the order of its graph."""
    graph = model.graph
    order = {name: place for place, node in enumerate(graph.node) for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    weighted = {node.name for node in graph.node if node.op_type in WEIGHTED and node.input[1] in weights}
    calls: Counter[str] = Counter()
    units = []
    for boundary in boundaries_of({entry.key: entry.value for entry in model.metadata_props}):
        inside = _between(graph, order, boundary.input, boundary.output)
        nodes = tuple(node.name for node in inside if node.name in weighted)
        calls[boundary.layer] += 1
        call = f" (call {calls[boundary.layer]})" if calls[boundary.layer] > 1 else ""
        name = (boundary.layer or "(root)") + call
        units += [Unit(name, boundary.input, _activated(graph, boundary.output), nodes)] if nodes else []
    owned = {name for unit in units for name in unit.nodes}
    for node in graph.node:
        if node.name in weighted - owned:
            name = node.input[1].removesuffix(".weight")
            units.append(Unit(name, node.input[0], _activated(graph, node.output[0]), (node.name,)))
    return sorted(units, key=lambda unit: order[unit.output])


def mixes(model: onnx.ModelProto) -> Iterator[str]:
    """The nodes that transform over the rotations: few multiplications, which stay as they are in int8."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and shapes.get(node.input[1], ())[2:] == _MIX:
            yield node.name


def _between(
    graph: onnx.GraphProto, order: dict[str, int], first: str, last: str
) -> Iterator[onnx.NodeProto]:
    """The nodes that compute ``last`` from ``first``."""
    seen, edge = {first}, [last]
    while edge:
        name = edge.pop()
        if name in order and name not in seen:
            node = graph.node[order[name]]
            seen.update(node.output)
            edge += node.input
            yield node


def _activated(graph: onnx.GraphProto, name: str) -> str:
    consumers = [node for node in graph.node if name in node.input]
    if len(consumers) == 1 and consumers[0].op_type in ACTIVATIONS and name not in _outputs(graph):
        return str(consumers[0].output[0])
    return name


def _outputs(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.output}
