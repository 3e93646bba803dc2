"""How many multiplications a graph does, by the shapes that its values have when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
from torch import Tensor

from ceconv_convert.graph.session import session_options
from ceconv_convert.graph.values import with_all_values

Shape = tuple[int, ...]


def multiplications(path: Path, x: Tensor) -> int:
    """Those of convolutions and matrix products, on the input ``x``; all others are few beside them."""
    model = onnx.load(path)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    session = onnxruntime.InferenceSession(
        with_all_values(model), sess_options=session_options(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: x.cpu().numpy()})
    shapes |= {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}
    return sum(_of_node(node, shapes) for node in onnx.load(path).graph.node)


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    if node.op_type == "Conv":  # weight [O, I / groups, …]
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0
