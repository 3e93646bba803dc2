"""Readers follow the forward pass, and refuse by name what is not accounted for."""

import copy
import zipfile

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ceconv_convert import CEConv2d, convert, load, verify
from ceconv_convert.conversion.find import Refusal, find_layers, is_candidate, read_layer
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.spec import KernelSpec
from tests import foreign
from tests.support import golden_layers, relative


def reason(layer):
    reading = read_layer(layer)
    assert isinstance(reading, Refusal)
    return reading.reason


@pytest.mark.parametrize("golden", golden_layers(), ids=lambda golden: golden.name)
def test_a_golden_layer_reads_as_it_acts(golden):
    reading = read_layer(golden.layer(torch.float64))
    assert isinstance(reading, KernelSpec)
    assert reading.kind in golden.name
    assert relative(evaluate(reading, golden.input.double()), golden.output_float64) <= 1e-12


@pytest.mark.parametrize("arguments", [(1, 5, 3, 4, 3), (3, 3, 4, 4, 3), (4, 2, 4, 4, (3, 1), False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_strangers_layer_reads_in_any_dtype(arguments, dtype):
    """It runs in float32 alone; its parameters may come in any dtype."""
    layer = foreign.CEConv2D(*arguments, stride=2, padding=1).to(dtype)
    reading = read_layer(layer)
    assert isinstance(reading, KernelSpec)
    assert reading.dtype == dtype
    assert next(layer.parameters()).dtype == dtype


def test_declared_dilation_groups_and_padding_mode_are_ignored():
    torch.manual_seed(0)
    layer = CEConv2d(3, 3, 4, 4, 3, padding=1, dilation=2, groups=2, padding_mode="reflect").double()
    x = torch.randn(1, 4, 3, 6, 6, dtype=torch.float64)
    assert relative(evaluate(read_layer(layer), x), layer(x)) <= 1e-12


def test_a_shared_spatial_factor_broadcasts():
    """Older separable layers have a weight of one input channel."""
    layer = CEConv2d(3, 3, 4, 5, 3).double()
    layer.weight = nn.Parameter(torch.randn(5, 1, 1, 3, 3, dtype=torch.float64))
    x = torch.randn(1, 4, 3, 6, 6, dtype=torch.float64)
    assert relative(evaluate(read_layer(layer), x), layer(x)) <= 1e-12


@pytest.mark.parametrize(
    "parametrize", [parametrizations.weight_norm, parametrizations.spectral_norm], ids=["weight", "spectral"]
)
@pytest.mark.parametrize("name", ["weight", "pointwise_weight"])
def test_parametrized_weights_are_read_as_they_act(parametrize, name):
    torch.manual_seed(0)
    layer = parametrize(CEConv2d(3, 3, 4, 4, 3).double(), name)
    x = torch.randn(1, 4, 3, 6, 6, dtype=torch.float64)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    reading = read_layer(layer)  # in training mode, where spectral_norm updates its buffers on access
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    assert relative(evaluate(reading, x), layer.eval()(x)) <= 1e-12
    assert reading.weight.requires_grad


def test_candidates():
    assert is_candidate(CEConv2d(1, 3, 3, 2, 3))
    assert is_candidate(foreign.Gated(1, 3, 3, 2, 3))
    assert is_candidate(foreign.GroupConvHS(3, 2, 3))
    assert not is_candidate(nn.Conv2d(3, 2, 3))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (foreign.Gated(1, 3, 3, 2, 3), "gated by the input.*filter_conv1"),
        (foreign.Shuffled(3, 3, 2, 2, 3), "differs from what its parameters say"),
        (foreign.Crashing(3, 3, 2, 2, 3), "forward pass fails on an input of shape .*missing"),
        (foreign.Wide(3, 3, 2, 2, 3), r"gives \[2, 6, 4, 5\] where its parameters say \[2, 2, 3, 4, 5\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_derivatives_are_refused_with_the_reason(layer, sentence):
    import re

    assert re.search(sentence, reason(layer))


def test_unaccounted_tensors_are_named():
    layer = CEConv2d(3, 3, 2, 2, 3)
    layer.register_buffer("running_gate", torch.ones(1))
    layer.scale = nn.Parameter(torch.ones(1))
    assert "running_gate, scale" in reason(layer)


def test_attributes_of_a_pickled_derivative_are_named(tmp_path):
    """A pickle's class name becomes ours on loading: only its attributes tell it apart."""
    layer = pickled_as_published(CEConv2d(3, 3, 2, 2, 3), tmp_path / "a.pt", spatial_rotations=4)
    assert "spatial rotations" in reason(layer)
    assert "no tag" in reason(pickled_as_published(layer, tmp_path / "a.pt", spatial_rotations=None, tag=1))
    assert isinstance(read_layer(pickled_as_published(layer, tmp_path / "a.pt", tag=None)), KernelSpec)
    assert "no tag" in reason(copy.deepcopy(pickled_as_published(layer, tmp_path / "a.pt", tag=1)))


def pickled_as_published(layer, path, **attributes):
    """What loading gives for a layer under the published class name, with further attributes."""
    vars(layer).update(attributes)
    torch.save(layer, path)
    names = {
        b"cceconv_convert.layers.ceconv2d\nCEConv2d\n": b"cceconv.ceconv2d\nCEConv2d\n",
    }
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            for ours, published in names.items():
                content = content.replace(ours, published)
            archive.writestr(name, content)
    return load(path)


@pytest.mark.parametrize("value", [1, "text", torch.ao.quantization.default_qconfig], ids=type)
def test_attributes_of_a_live_layer_of_ours_change_nothing(tmp_path, value):
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), CEConv2d(3, 3, 2, 2, 3))
    model[0].tag = model[1].qconfig = value
    assert isinstance(read_layer(model[0]), KernelSpec)
    assert verify(model, convert(model)).passed
    if value == 1:
        torch.save(model, tmp_path / "a.pt")
        assert isinstance(read_layer(load(tmp_path / "a.pt")[0]), KernelSpec)


def test_a_forward_pass_of_its_own_is_refused():
    layer = CEConv2d(3, 3, 2, 2, 3)
    layer.forward = lambda x: 2 * x
    assert "forward" in reason(layer)


def test_pruned_and_legacy_normed_layers_say_what_to_do():
    layer = prune.l1_unstructured(CEConv2d(3, 3, 2, 2, 3), "weight", amount=0.5)
    assert "prune.remove" in reason(layer)
    prune.remove(layer, "weight")
    assert isinstance(read_layer(layer), KernelSpec)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda layer: setattr(layer, "in_rotations", 4), r"attributes say \[2, 2, 4, 3, 3\]"),
        (lambda layer: setattr(layer, "in_rotations", None), "'in_rotations' is not a whole number"),
        (lambda layer: setattr(layer, "separable", False), "says separable=False"),
        (lambda layer: setattr(layer, "kernel_size", (5, 5)), r"attributes say \[2, 2, 3, 5, 5\]"),
        (lambda layer: setattr(layer, "padding", "circular"), "found 'circular'"),
        (lambda layer: setattr(layer, "stride", (0, 1)), "stride is 1 to 1024"),
        (lambda layer: delattr(layer, "weight"), "no tensor 'weight'"),
        (lambda layer: setattr(layer, "weight", nn.Parameter(torch.ones(2, 2, 3, 3))), "do not fit"),
    ],
)
def test_layers_that_do_not_fit_together_are_refused(change, sentence):
    layer = CEConv2d(3, 3, 2, 2, 3)
    change(layer)
    assert sentence.replace("\\", "") in reason(layer)


def test_sites_are_found_once_with_all_their_names():
    shared = CEConv2d(3, 3, 2, 2, 3)
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared, foreign.Gated(3, 3, 2, 2, 3)), "c": nn.ReLU()}
    )
    first, second = find_layers(model)
    assert first.names == ("a", "b.0")
    assert second.names == ("b.1",)
    assert find_layers(shared)[0].names == ("",)
