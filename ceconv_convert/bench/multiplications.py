"""How many multiplications a graph does, by the shapes that its values have when it runs."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
from torch import Tensor

from ceconv_convert.onnx.runtime import inner_values


def multiplications(path: Path, x: Tensor) -> int:
    """Those of convolutions and matrix products outside of branches and loops, on the input ``x``."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {name: tuple(value.shape) for name, value in inner_values(path, x).items()}
    shapes[graph.input[0].name] = tuple(x.shape)
    count = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):  # weight [O, I / groups, …], or [I, O / groups, …]
            end = node.output[0] if node.op_type == "Conv" else node.input[0]
            count += prod(shapes[end]) * prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            count += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
            count += prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return count
