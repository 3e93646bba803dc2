"""Values inside an ONNX graph, as ONNX Runtime computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.runtime import FAILURES
from ceconv_convert.onnx.session import session_options

_NUMBERS = "biuf"
"""Kinds of numpy dtypes that are tensors: a value may be a sequence, or hold texts."""
_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where weights lie that are not in the graph's own bytes: those past 2 GiB."""


def named_values(path: Path, x: Tensor) -> dict[str, Tensor]:
    """Every tensor that a node of a file gives on the input ``x``, by name.

    Each value becomes an output of a copy of the graph, which keeps the runtime from fusing across it.

    Raises:
        ExportError: where the file cannot be loaded, or does not run.
    """
    model = onnx.load(path, load_external_data=False)
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    return run_with_outputs(path, model, names, {model.graph.input[0].name: x})


def run_with_outputs(
    path: Path, model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors ``names`` of a graph that came from ``path``; they become its outputs.

    Raises:
        ExportError: where it cannot be loaded, or does not run.
    """
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options()
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        options.add_session_config_entry(_FOLDER, str(path.parent.resolve()))
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        found = session.run(list(names), {name: tensor.cpu().numpy() for name, tensor in inputs.items()})
    except (*FAILURES, ValueError) as error:
        raise ExportError(
            f"ONNX Runtime cannot run {path.name} value by value: {first_line(error)}"
        ) from error
    return {
        name: torch.from_numpy(value)
        for name, value in zip(names, found, strict=True)
        if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS
    }
