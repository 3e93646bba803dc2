"""Layers and networks of "Learning Color Equivariant Representations", against data of their public code."""

import json
import re
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ceconv_convert import (
    InputShapeError,
    RefusedLayerError,
    accelerate,
    convert,
    export_onnx,
    load,
    plan,
    verify,
)
from ceconv_convert.conversion.find import Refusal, read_layer
from ceconv_convert.kernel.closed_form import evaluate
from tests import foreign
from tests.support import FIXTURES, relative

GOLDEN = FIXTURES / "golden" / "hue_saturation"
INDEX = json.loads((GOLDEN / "index.json").read_text())


def golden(make, kind, name):
    """A module with golden parameters, and what the public code gave for it."""
    data = load_file(GOLDEN / f"{name}.safetensors")
    module = make(**INDEX[kind][name]).eval()
    state = {key.removeprefix("param."): value for key, value in data.items() if key.startswith("param.")}
    for key in [key for key in state if key.endswith("group_conv_weight")]:
        del state[key]
    missing = module.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith("group_conv_weight") for key in missing.missing_keys)
    return module, data["input"], data["output"], data["output_float64"]


@pytest.mark.parametrize("name", INDEX["layers"])
def test_layers_are_read_and_converted(name):
    layer, x, output, exact = golden(foreign.GroupConvHS, "layers", name)
    assert relative(layer(x), output) <= 1e-6
    spec = read_layer(layer.double())
    assert relative(evaluate(spec, x.double()), exact) <= 1e-12
    layer.float()
    for form in ("conv3d", "conv2d", "fourier"):
        converted = convert(layer, form)
        assert relative(converted(x), output) <= 2e-6
        assert not any(isinstance(module, foreign.GroupConvHS) for module in converted.modules())


@pytest.mark.parametrize("name", INDEX["networks"])
def test_networks_convert_and_are_judged(name):
    network, x, output, _ = golden(foreign.HueSaturationNetwork, "networks", name)
    shape = tuple(x.shape[1:])
    hues = INDEX["networks"][name]["n_groups_hue"]
    assert {(row.kind, row.rotations) for row in plan(network)} == {("hidden", (hues, hues))}
    converted = convert(network)
    assert relative(converted(x), output) <= 1e-6
    verdict = verify(network, converted, input_shape=shape)
    assert verdict.passed
    assert len(verdict.layers) == 7
    assert len(verdict.symmetries) == 8  # features roll, outputs stay
    assert all(symmetry.reason is None for symmetry in verdict.symmetries)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "conv2d", "conv3d"])
def test_networks_become_onnx_files(form, tmp_path):
    torch.manual_seed(0)
    groups = {"n_groups_hue": 3, "n_groups_saturation": 3}
    network = nn.Sequential(
        foreign.GroupConvHS(3, 4, 3, padding=1, **groups),
        foreign.GroupBatchNorm2d(4),
        nn.ReLU(),
        foreign.GroupConvHS(4, 2, 3, stride=2, padding=1, **groups),
    ).eval()
    network[1].batch_norm.running_var.uniform_(0.3, 1.0)
    path, x = tmp_path / "a.onnx", torch.randn(2, 27, 12, 12)
    verdict = export_onnx(network, path, input_shape=(27, 12, 12), form=form)
    assert len(verdict.layers) == 2
    session = onnxruntime.InferenceSession(path)
    found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    assert relative(found, network(x)) <= 2e-6


def test_a_wrong_saturation_is_found():
    network, x, *_ = golden(foreign.HueSaturationNetwork, "networks", "z2cnn_h3s3")
    converted = convert(network)
    with torch.no_grad():
        weight = converted.network[3].weight
        weight.copy_(weight.view(3, 6, *weight.shape[1:]).roll(1, 0).flatten(0, 1))
    verdict = verify(network, converted, input_shape=tuple(x.shape[1:]))
    assert "layer network.3" in str(verdict)
    assert not verdict.passed


def test_images_that_are_not_shifted_are_refused_with_the_reason():
    network = foreign.HueSaturationNetwork(4, 4, 1)
    with pytest.raises(InputShapeError, match="4 shifted copies of an image, 12 channels, made outside"):
        verify(network, convert(network), input_shape=(3, 28, 28))


def test_layers_that_are_others_are_refused():
    layer = foreign.GroupConvHS(2, 3, 3, n_groups_hue=3)
    layer.gate = nn.Parameter(torch.ones(1))
    assert "no gate" in reason(layer)
    layer = foreign.GroupConvHS(2, 3, 3, n_groups_hue=3)
    layer.n_groups_hue = 4
    assert re.search(
        r"conv_weight has shape \[3, 6, 3, 3\], its attributes say \[3, 8, 3, 3\]", reason(layer)
    )
    layer.n_groups_hue = "many"
    assert "'n_groups_hue' is not a whole number" in reason(layer)
    layer = foreign.GroupConvHS(2, 3, 3, n_groups_hue=3)
    layer.forward = lambda x: foreign.GroupConvHS.forward(layer, x.roll(1, 1))
    assert "differs from what its parameters say" in reason(layer)
    with pytest.raises(RefusedLayerError):
        convert(layer)


def reason(layer):
    reading = read_layer(layer)
    assert isinstance(reading, Refusal)
    return reading.reason


def test_training_leaves_them_as_they_are():
    layer = foreign.GroupConvHS(2, 3, 3, n_groups_hue=3)
    assert str(accelerate(nn.Sequential(layer))).startswith("0: as published (it is group-major")


def test_a_converted_network_is_saved_and_loaded(tmp_path: Path):
    layer, x, output, _ = golden(foreign.GroupConvHS, "layers", "h3s3_k3")
    torch.save(nn.Sequential(convert(layer)), tmp_path / "a.pt")
    assert relative(load(tmp_path / "a.pt")(x), output) <= 2e-6
