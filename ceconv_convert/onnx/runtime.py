"""An ONNX file in ONNX Runtime, with tensors in and out: whole, or value by value."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state
from torch import Tensor

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.onnx_files import path_or_bytes

_ERRORS = (found for found in vars(onnxruntime_pybind11_state).values() if isinstance(found, type))
_FAILURES: tuple[type[Exception], ...] = (ValueError, *(e for e in _ERRORS if issubclass(e, Exception)))
"""What ONNX Runtime raises."""
CONVOLVED = (torch.float32, torch.float16)
"""What ONNX Runtime's CPU provider convolves in."""
_ERRORS_ONLY = 3
_CUT = ".cut"
_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where weights lie that are not in the graph's own bytes: those past 2 GiB."""


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ExportError where ONNX Runtime's CPU provider has no convolution in ``dtype``."""
    if dtype not in CONVOLVED:
        raise ExportError(
            f"ONNX Runtime's CPU provider convolves in float32 and float16, the network is in {dtype}: "
            "convert model.float() instead"
        )


class OnnxRunner:
    """A session: ``runner(x)`` gives the outputs as a tuple of tensors. 0 threads are one a core.

    ``input`` is the name of the graph's input and ``shape`` its declared one, None a dynamic axis; ``texts``
    are the file's ``metadata_props``. The ``provider`` is the CPU's where the requested one does not load.

    Raises:
        ExportError: where ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, provider: str = "CPUExecutionProvider", threads: int = 0) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                path_or_bytes(path), sess_options=_options(threads), providers=[provider]
            )
        except _FAILURES as error:
            raise ExportError(f"ONNX Runtime cannot load the file: {first_line(error)}") from error
        entry = self._session.get_inputs()[0]
        self.input = str(entry.name)
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in entry.shape)
        self.provider = str(self._session.get_providers()[0])
        self.texts = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run on a batch; RuntimeError where ONNX Runtime fails on it."""
        try:
            outputs = self._session.run(None, {self.input: x.cpu().numpy()})
        except _FAILURES as error:
            raise RuntimeError(f"ONNX Runtime: {first_line(error)}") from error
        return tuple(torch.from_numpy(output) for output in outputs)


def inner_values(
    path: Path,
    x: Tensor,
    names: Sequence[str] | None = None,
    fed: Mapping[str, Tensor] | None = None,
    *,
    fused: bool = False,
) -> dict[str, Tensor]:
    """Values inside a file as ONNX Runtime computes them on the input ``x``, by name; None are all of nodes.

    Each becomes an output of a copy of the graph, which keeps the runtime from fusing across it. Nodes that
    take a value which is ``fed`` get that tensor instead. Sequences and texts are left out. The graph is not
    optimized, which takes half of the time, unless ``fused``, as in an int8 file.

    Raises:
        ExportError: where the file cannot be loaded, cannot be cut so, or does not run.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if names is None:
        names = [name for node in graph.node for name in node.output if name]
    inputs = {graph.input[0].name: x}
    for name, tensor in (fed or {}).items():
        inputs[f"{name}{_CUT}"] = tensor
        kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.cpu().numpy().dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(f"{name}{_CUT}", kind, tensor.shape))
    for node in graph.node:
        node.input[:] = [f"{name}{_CUT}" if f"{name}{_CUT}" in inputs else name for name in node.input]
    names = list(dict.fromkeys(names))
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = _options()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        options.add_session_config_entry(_FOLDER, str(path.parent.resolve()))
    serialized = model.SerializeToString()
    del graph, model  # as large as the weights
    try:
        session = onnxruntime.InferenceSession(
            serialized, sess_options=options, providers=["CPUExecutionProvider"]
        )
        arrays = session.run(names, {name: tensor.cpu().numpy() for name, tensor in inputs.items()})
    except _FAILURES as error:
        problem = f"ONNX Runtime cannot run {path.name} value by value: {first_line(error)}"
        raise ExportError(problem) from error
    found = {name: array for name, array in zip(names, arrays, strict=True) if isinstance(array, np.ndarray)}
    return {name: torch.from_numpy(array) for name, array in found.items() if array.dtype.kind in "biuf"}


def _options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Quiet, and asleep while it waits: idle sessions would spin on the cores of the others."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
