"""Every value of an ONNX graph on one input, as ONNX Runtime computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
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
    tensors = map(torch.from_numpy, named_values(path, onnx.load(path), x).values())
    return [tensor for tensor in tensors if tensor.dtype.is_floating_point and tensor.numel()]


def named_values(path: Path, model: onnx.ModelProto, x: Tensor) -> dict[str, NDArray[np.generic]]:
    """Every tensor of ``model``, as read from ``path``, by name; in ``model``, each becomes an output.

    Raises:
        ExportError: where it does not run.
    """
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=session_options(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        found = session.run(names, {session.get_inputs()[0].name: x.cpu().numpy()})
    except (*FAILURES, ValueError) as error:
        raise ExportError(
            f"ONNX Runtime cannot run {path.name} value by value: {first_line(error)}"
        ) from error
    named = zip(names, found, strict=True)
    return {name: value for name, value in named if isinstance(value, np.ndarray)}  # and no sequence
