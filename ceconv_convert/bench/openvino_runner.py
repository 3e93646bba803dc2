"""ONNX files in OpenVINO, where that is installed."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from ceconv_convert.errors import first_line

HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""Precisions that OpenVINO computes float32 files in, as it names them."""


class OpenVinoRunner:
    """A compiled file: ``runner(x)`` gives the outputs. RuntimeError where OpenVINO cannot read it."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise RuntimeError(f"OpenVINO: {first_line(error)}") from error
        self._request = compiled.create_infer_request()
        self._count = len(compiled.outputs)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self._request.infer({0: x.numpy()})
        outputs = (self._request.get_output_tensor(index) for index in range(self._count))
        return tuple(torch.from_numpy(output.data.copy()) for output in outputs)


def openvino_precisions() -> tuple[str, ...]:
    """Those that it computes in on this processor; none where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return ()
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(HINTS) if "BF16" in able else ("float32",)
