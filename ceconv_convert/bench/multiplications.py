"""How many multiplications a graph does, by the shapes that its values have when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from torch import Tensor

from ceconv_convert.onnx.runtime import inner_values

Shape = tuple[int, ...]


def multiplications(path: Path, x: Tensor) -> int:
    """Those of convolutions and matrix products outside of branches and loops, on the input ``x``."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {name: tuple(value.shape) for name, value in inner_values(path, x).items()}
    shapes[graph.input[0].name] = tuple(x.shape)
    return sum(_of_node(node, shapes) for node in graph.node)


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    if node.op_type == "Conv":  # weight [O, I / groups, …]
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":  # weight [I, O / groups, …]
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0
