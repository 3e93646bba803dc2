"""Every value of an ONNX graph on one input, as ONNX Runtime computes it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.graph.runtime import FAILURES
from ceconv_convert.graph.session import session_options


def values_of(path: Path, x: Tensor) -> list[Tensor]:
    """The floating-point values of a graph, outputs among them, on the input ``x``.

    Each value becomes an output of a copy of the graph, which keeps the runtime from fusing across it.

    Raises:
        ExportError: where the file cannot be loaded, or does not run.
    """
    try:
        session = onnxruntime.InferenceSession(
            with_all_values(onnx.load(path)),
            sess_options=session_options(),
            providers=["CPUExecutionProvider"],
        )
        found = session.run(None, {session.get_inputs()[0].name: x.cpu().numpy()})
    except (*FAILURES, ValueError) as error:
        raise ExportError(
            f"ONNX Runtime cannot run {path.name} value by value: {first_line(error)}"
        ) from error
    tensors = (torch.from_numpy(value) for value in found)
    return [tensor for tensor in tensors if tensor.dtype.is_floating_point and tensor.numel()]


def with_all_values(model: onnx.ModelProto) -> bytes:
    """The graph, changed so that each of its values is an output."""
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(model.SerializeToString())
