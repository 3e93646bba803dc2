"""An ONNX file in ONNX Runtime, with tensors in and out."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from torch import Tensor

from ceconv_convert.errors import ExportError, first_line

FAILURES = (
    errors.EPFail,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.ModelLoaded,
    errors.NoModel,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)
_ERRORS_ONLY = 3
CONVOLVED = (torch.float32, torch.float16)


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ExportError where ONNX Runtime's CPU provider has no convolution in ``dtype``."""
    if dtype not in CONVOLVED:
        raise ExportError(
            f"ONNX Runtime's CPU provider convolves in float32 and float16, the network is in {dtype}: "
            "convert model.float() instead"
        )


def session_options() -> onnxruntime.SessionOptions:
    """Quiet, and asleep while it waits: idle sessions would spin on the cores of the others."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRunner:
    """A session on the CPU provider: ``runner(x)`` gives the outputs as a tuple of tensors.

    Raises:
        ExportError: where ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=session_options(), providers=["CPUExecutionProvider"]
            )
        except FAILURES as error:
            raise ExportError(f"ONNX Runtime cannot load the file: {first_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run on a batch.

        Raises:
            RuntimeError: where ONNX Runtime fails on it.
        """
        try:
            outputs = self._session.run(None, {self._input: x.cpu().numpy()})
        except FAILURES as error:
            raise RuntimeError(f"ONNX Runtime: {first_line(error)}") from error
        return tuple(torch.from_numpy(output) for output in outputs)
