"""Files in other runtimes, each in a process of its own, as `make runtimes` measures them: some crash."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ceconv_convert import export_onnx, load
from tests.support import COLOR_DIGITS, FIXTURES

RUNNERS = FIXTURES.parent / "docs" / "runtime_runners.py"
MODULES = {"opencv": "cv2", "tract": "tract", "mnn": "MNN"}
FORMS = ("auto", "conv3d")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = load(COLOR_DIGITS).eval()
    for form in FORMS:
        export_onnx(model, folder / f"{form}.dynamic.onnx", form=form, input_shape=(3, 16, 16))
    export_onnx(model, folder / "auto.static.onnx", input_shape=(1, 3, 16, 16), static=True)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.save(folder / "input.npy", x.numpy())
    with torch.no_grad():
        return folder, model.double()(x.double()).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"{form}.dynamic" for form in FORMS), "auto.static"])
@pytest.mark.parametrize("runtime", MODULES)
def test_agrees(files, runtime, name, tmp_path):
    if importlib.util.find_spec(MODULES[runtime]) is None:
        pytest.skip(f"needs {MODULES[runtime]}")
    folder, expected = files
    command = [sys.executable, RUNNERS, runtime, folder / f"{name}.onnx", folder / "input.npy"]
    done = subprocess.run(
        [*command, tmp_path / "output.npy", "0"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in answer, answer
    assert np.abs(np.load(tmp_path / "output.npy") - expected).max() < 1e-5 * np.abs(expected).max()
