"""An ONNX file in ONNX Runtime, with tensors in and out."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from torch import Tensor

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.onnx_files import path_or_bytes
from ceconv_convert.onnx.session import session_options

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
CONVOLVED = (torch.float32, torch.float16)


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ExportError where ONNX Runtime's CPU provider has no convolution in ``dtype``."""
    if dtype not in CONVOLVED:
        raise ExportError(
            f"ONNX Runtime's CPU provider convolves in float32 and float16, the network is in {dtype}: "
            "convert model.float() instead"
        )


class OnnxRunner:
    """A session: ``runner(x)`` gives the outputs as a tuple of tensors.

    Args:
        path: of the file.
        provider: of ONNX Runtime.
        threads: within an operator; 0 is one a core.

    Attributes:
        input: the name of the graph's input.
        shape: that it declares for it; None is a dynamic axis.

    Raises:
        ExportError: where ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, provider: str = "CPUExecutionProvider", threads: int = 0) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                path_or_bytes(path), sess_options=session_options(threads), providers=[provider]
            )
        except FAILURES as error:
            raise ExportError(f"ONNX Runtime cannot load the file: {first_line(error)}") from error
        self.input = str(self._session.get_inputs()[0].name)
        axes = self._session.get_inputs()[0].shape
        self.shape = tuple(axis if isinstance(axis, int) else None for axis in axes)

    @property
    def provider(self) -> str:
        """The first that the session has: it asks for another where one does not load."""
        return str(self._session.get_providers()[0])

    @property
    def texts(self) -> dict[str, str]:
        """The file's ``metadata_props``."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run on a batch.

        Raises:
            RuntimeError: where ONNX Runtime fails on it.
        """
        try:
            outputs = self._session.run(None, {self.input: x.cpu().numpy()})
        except FAILURES as error:
            raise RuntimeError(f"ONNX Runtime: {first_line(error)}") from error
        return tuple(torch.from_numpy(output) for output in outputs)
