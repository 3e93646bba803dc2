"""Damaged conversions: every mutation of every kind of layer is caught, and the layer is named."""

import copy
import functools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, convert, export_onnx, verify
from ceconv_convert.forms.table import FORMS
from ceconv_convert.onnx.judge_file import judge_onnx
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.judge import judge_module
from tests.support import shake, small_network

KINDS = {
    "lifting": "lifting",
    "lifting, learned": "learned",
    "hidden": "hidden",
    "separable": "separable",
    "hidden, even": "even",
}


class Every(nn.Module):
    """Every kind of layer, with names that say which."""

    def __init__(self):
        super().__init__()
        self.lifting = CEConv2d(1, 3, 3, 6, 3, padding=1)
        self.separable = CEConv2d(3, 3, 6, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.hidden = CEConv2d(3, 4, 6, 6, 3, padding=1, separable=False)
        self.even = CEConv2d(4, 4, 6, 6, 3, stride=2, separable=False)
        self.learned = CEConv2d(1, 4, 3, 6, 3, stride=2, learnable=True)
        self.pool = GroupCosetMaxPool()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        y = self.even(self.hidden(torch.relu(self.norm(self.separable(self.lifting(x))))).relu())
        z = self.learned(x)[..., : y.shape[-2], : y.shape[-1]]
        return self.head(self.pool(y + z).mean((2, 3)))


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return shake(Every()).eval()


@pytest.fixture(scope="module")
def evidence(original):
    return gather(original)


@pytest.fixture(scope="module")
def converted(original, evidence):
    """The network in each form; undamaged, it passes."""
    found = {form: convert(original, form) for form in FORMS}
    assert all(judge_module(evidence, model, "the network").passed for model in found.values())
    return found


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    """The network's file in a form, and its verdict: written once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def written(form):
        path = folder / f"{form}.onnx"
        return path, export_onnx(original, path, form=form)

    return written


def one(layer):
    layer.weight.view(-1)[7].add_(1e-3)


def swapped(layer):
    weight = layer.weight.unflatten(0, (-1, layer.out_rotations)) if layer.form == "conv2d" else layer.weight
    weight.copy_(weight.flip(1 if layer.form == "conv2d" else 2))


def rolled(layer):
    axis = 1 if layer.form == "conv2d" else 2
    weight = layer.weight.unflatten(0, (-1, layer.out_rotations)) if layer.form == "conv2d" else layer.weight
    weight.copy_(weight.roll(1, axis))


def off_in_one_channel(layer):
    """The rotations of one channel off by one, by a ten-thousandth of them."""
    axis = 0 if layer.form == "conv2d" else 1
    channel = layer.weight[2] if layer.form == "conv3d" else layer.weight[2 * layer.out_rotations]
    channel.add_(1e-4 * channel.roll(1, axis))


def padded(layer):
    *rest, rows, columns = layer.padding
    layer.padding = (*rest, rows + 1, columns + 1)


def biased(layer):
    layer.bias[1].add_(1e-3)


def transposed(layer):
    layer.weight.copy_(layer.weight.transpose(-1, -2).clone())


def quiet_channel(layer):
    layer.weight[0].mul_(1 + 1e-4)


EXPORTED_FORMS = ("auto", *FORMS)
MUTATIONS = [one, swapped, rolled, off_in_one_channel, padded, biased, transposed, quiet_channel]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_a_damaged_layer_is_caught_and_named(converted, evidence, name, mutate, form):
    damaged = copy.deepcopy(converted[form])
    with torch.no_grad():
        mutate(damaged.get_submodule(name))
    verdict = judge_module(evidence, damaged, "the network")
    assert not verdict.passed
    assert str(verdict).startswith(f"FAIL: the network: layer {name}: "), str(verdict)


@pytest.mark.parametrize("name", ["norm", "head"])
def test_a_damaged_step_that_is_no_layer_is_named(original, evidence, name):
    converted = convert(original)
    with torch.no_grad():
        converted.get_submodule(name).bias[0].add_(1e-3)
    verdict = judge_module(evidence, converted, "the network")
    assert not verdict.passed
    assert f"it begins at {name}: " in str(verdict) or f": {name}: the features after it" in str(verdict)


def test_a_weak_channel_is_held_to_small_errors():
    """Its damage would drown in the roundings of the strong ones."""
    torch.manual_seed(0)
    layer = CEConv2d(3, 3, 4, 4, 3, separable=False, bias=False)
    with torch.no_grad():
        layer.weight[1].mul_(1e-5)
    model = nn.Sequential(layer)
    converted = convert(model)
    assert verify(model, converted, input_shape=(4, 3, 12, 12)).passed
    with torch.no_grad():
        converted[0].weight[1].mul_(1.001)
    verdict = verify(model, converted, input_shape=(4, 3, 12, 12))
    assert str(verdict).startswith("FAIL: the converted network: layer 0: ")


def weight_named(file, name):
    return next(index for index, tensor in enumerate(file.graph.initializer) if tensor.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_damage_in_an_onnx_file_is_caught_and_named(exported, evidence, tmp_path, form):
    path, verdict = exported(form)
    assert verdict.passed
    whole = onnx.load(path)
    names = [tensor.name for tensor in whole.graph.initializer if tensor.name.endswith((".weight", ".bias"))]
    assert len({name.split(".")[0] for name in names}) >= 5
    for name in names:
        file = onnx.load(path)
        index = weight_named(file, name)
        values = numpy_helper.to_array(file.graph.initializer[index]).copy()
        values[1] += 1e-3 * np.roll(values[1], 1, 0) if values.ndim > 1 else 1e-3
        file.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(file, tmp_path / "b.onnx")
        verdict = judge_onnx(evidence, tmp_path / "b.onnx")
        assert not verdict.passed, name
        step = name.rsplit(".", 1)[0]
        assert f"{step}: " in str(verdict), f"{name}: {verdict}"


@pytest.fixture(scope="module")
def drowned(original):
    """Every kind of layer, with kernels that are lost in the roundings of their biases."""
    model = copy.deepcopy(original)
    with torch.no_grad():
        for name in KINDS.values():
            model.get_submodule(name).weight.mul_(1e-5)
        model.norm.running_var.fill_(1e-4)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTED_FORMS)
def test_layers_of_a_file_are_judged_by_themselves(drowned, tmp_path, form):
    """Rotations rolled by one, in a network whose outputs hardly know it."""
    evidence = gather(drowned)
    assert export_onnx(drowned, tmp_path / "a.onnx", form=form).passed
    for name in KINDS.values():
        file = onnx.load(tmp_path / "a.onnx")
        tensor = file.graph.initializer[weight_named(file, f"{name}.weight")]
        values = numpy_helper.to_array(tensor)
        if values.ndim == 5:
            rolled = np.roll(values, 1, 2)
        else:
            rotations = drowned.get_submodule(name).out_rotations
            rolled = np.roll(values, len(values) // rotations if form in ("auto", "fourier") else 1, 0)
        tensor.CopyFrom(numpy_helper.from_array(rolled, tensor.name))
        onnx.save(file, tmp_path / "b.onnx")
        verdict = judge_onnx(evidence, tmp_path / "b.onnx")
        assert [check.name for check in verdict.layers if check.problem] == [name]
        assert f"layer {name}: its error" in str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTED_FORMS)
def test_every_layer_of_a_file_is_found(exported, form):
    _, verdict = exported(form)
    assert sorted(check.name for check in verdict.layers) == sorted(KINDS.values())
    assert all(check.random.error_over_tolerance < 0.5 for check in verdict.layers)


@pytest.mark.slow
def test_the_first_of_several_damages_is_named(exported, evidence, tmp_path):
    file = onnx.load(exported("auto")[0])
    for name in ("even.weight", "hidden.weight"):
        index = weight_named(file, name)
        values = numpy_helper.to_array(file.graph.initializer[index])[..., ::-1].copy()
        file.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(file, tmp_path / "b.onnx")
    assert "layer hidden: its error" in str(judge_onnx(evidence, tmp_path / "b.onnx"))


def test_features_roll_and_pooled_scores_stay():
    model = small_network()
    verdict = verify(model, convert(model))
    assert [symmetry.name for symmetry in verdict.symmetries] == ["0", "4", "7", "output"]
    for symmetry in verdict.symmetries:
        assert symmetry.reason is None
        assert symmetry.original < 1e-5
        assert symmetry.candidate < 1e-5
        assert symmetry.problem is None


def test_what_is_not_equivariant_by_design_is_said(original, evidence):
    head = (nn.Flatten(1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(15, 4))
    flattened = nn.Sequential(*list(small_network())[:8], *head)
    verdict = verify(flattened.eval(), convert(flattened))
    assert verdict.passed
    assert [symmetry.reason for symmetry in verdict.symmetries][:3] == [None, None, None]
    assert "it is not invariant by design" in verdict.symmetries[-1].reason
    assert evidence.hue_rotation == "its lifting layers have matrices of their own"
    torch.manual_seed(0)
    learned = nn.Sequential(CEConv2d(1, 3, 3, 4, 3, learnable=True), GroupCosetMaxPool())
    assert "matrix is learned" in gather(learned).hue_rotation
    uneven = nn.Sequential(CEConv2d(1, 4, 3, 4, 3), CEConv2d(4, 3, 4, 4, 3))
    symmetries = verify(uneven, convert(uneven)).symmetries
    assert symmetries[0].reason is None
    assert symmetries[1].reason == "4 rotations in are no part of 3 out"


def test_a_conversion_that_breaks_the_symmetry_alone_fails(monkeypatch):
    """Were every other check blind, the oracle would still see it."""
    model = small_network()
    evidence = gather(model)
    damaged = convert(model)
    with torch.no_grad():
        damaged[7].weight[0, :, 0].mul_(1.5)
    symmetries = judge_module(evidence, damaged, "the network").symmetries
    assert [symmetry.name for symmetry in symmetries if symmetry.problem] == []  # hidden layers stay cyclic
    expanded = convert(model, "conv2d")
    with torch.no_grad():
        expanded[7].weight[0].mul_(1.5)
    symmetries = judge_module(evidence, expanded, "the network").symmetries
    assert "7" in [symmetry.name for symmetry in symmetries if symmetry.problem]
