"""What users do to our files with other tools: quantizers, float16 converters, simplifiers."""

import warnings

import numpy as np
import onnx
import onnxconverter_common
import onnxruntime
import onnxsim
import onnxslim
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from onnxruntime.transformers import float16
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, export_onnx
from tests.support import shake

FORMS = ("auto", "fourier")


class Images(CalibrationDataReader):
    """Eight random images."""

    def __init__(self):
        random = np.random.default_rng(1)
        self.images = ({"input": random.standard_normal((1, 3, 20, 24), np.float32)} for _ in range(8))

    def get_next(self):
        return next(self.images, None)


@pytest.fixture(scope="module", params=FORMS)
def file(request, tmp_path_factory):
    """A network with a residual, as an exact file."""
    path = tmp_path_factory.mktemp("tools") / "exact.onnx"
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = CEConv2d(3, 3, 16, 16, 3, padding=1)
            self.norm = nn.BatchNorm3d(16)

        def forward(self, x):
            return torch.relu(x + self.norm(self.layer(x)))

    model = nn.Sequential(
        CEConv2d(1, 3, 3, 16, 3, padding=1),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        Residual(),
        Residual(),
        GroupCosetMaxPool(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    export_onnx(shake(model), path, form=request.param, input_shape=(3, 20, 24))
    return path


def outputs(path):
    x = np.random.default_rng(2).standard_normal((2, 3, 20, 24), np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    return session.run(None, {entry.name: x.astype(np.float16 if "16" in entry.type else np.float32)})[0]


def check_close(path, file, tolerance):
    exact = outputs(file)
    assert np.abs(outputs(path) - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_quantize_static(file, tmp_path, prepared):
    source = tmp_path / "prepared.onnx" if prepared else file
    if prepared:
        quant_pre_process(file, source, skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, tmp_path / "a.onnx", Images(), per_channel=True, **types)
    check_close(tmp_path / "a.onnx", file, 0.15)


@pytest.mark.slow
@pytest.mark.parametrize("tool", [float16, onnxconverter_common])
@pytest.mark.parametrize("ends", [True, False])
def test_float16_converters(file, tmp_path, tool, ends):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers below those of float16
        converted = tool.convert_float_to_float16(onnx.load(file), keep_io_types=ends)
    onnx.save(converted, tmp_path / "a.onnx")
    check_close(tmp_path / "a.onnx", file, 5e-3)


@pytest.mark.slow
def test_onnxslim(file, tmp_path):
    onnx.save(onnxslim.slim(onnx.load(file)), tmp_path / "a.onnx")
    check_close(tmp_path / "a.onnx", file, 1e-5)


@pytest.mark.slow
def test_onnxsim(file, tmp_path):
    simplified, checked = onnxsim.simplify(onnx.load(file))
    onnx.save(simplified, tmp_path / "a.onnx")
    assert checked
    check_close(tmp_path / "a.onnx", file, 1e-5)
