"""Our layers against the published implementation's own numbers."""

import pickle

import pytest
import torch
from torch import nn

import ceconv_convert
from ceconv_convert import (
    CEConv2D,
    CEConv2d,
    ConversionError,
    GroupCosetAvgPool,
    GroupCosetMaxPool,
    GroupMaxPool2d,
)
from tests.support import golden_layers, relative

GOLDEN = pytest.mark.parametrize("golden", golden_layers(), ids=lambda golden: golden.name)


def test_there_are_38_golden_layers():
    assert len(golden_layers()) == 38


@GOLDEN
def test_agrees_with_the_published_layer(golden):
    output = golden.layer()(golden.input)
    assert output.shape == golden.output.shape
    assert output.is_contiguous()
    own = relative(golden.output, golden.output_float64)  # of another processor, which adds in another order
    assert relative(output, golden.output_float64) <= 2 * own + 8 * torch.finfo(torch.float32).eps


@GOLDEN
def test_agrees_in_float64_to_1e_12(golden):
    output = golden.layer(torch.float64)(golden.input.double())
    assert output.dtype == torch.float64
    assert relative(output, golden.output_float64) <= 1e-12


@GOLDEN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_in_half_precision(golden, dtype):
    output = golden.layer(dtype)(golden.input.to(dtype))
    assert output.dtype == dtype
    assert relative(output, golden.output_float64) <= 8 * torch.finfo(dtype).eps


@GOLDEN
def test_has_the_published_parameters(golden):
    layer = CEConv2d(**golden.arguments)
    assert {name: p.shape for name, p in layer.named_parameters()} == {
        name: tensor.shape for name, tensor in golden.state.items()
    }


def test_lifting_takes_one_rotation_too():
    layer = CEConv2d(1, 4, 3, 2, 3)
    x = torch.randn(2, 3, 6, 7)
    assert torch.equal(layer(x), layer(x.unsqueeze(2)))


def test_takes_a_transposed_input_and_gives_a_contiguous_output():
    layer = CEConv2d(3, 3, 2, 4, 3, stride=2)
    x = torch.randn(2, 3, 2, 9, 9)
    assert torch.equal(layer(x.transpose(1, 2)), layer(x.transpose(1, 2).contiguous()))
    lifting = CEConv2d(1, 3, 3, 4, 3)
    assert lifting(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).is_contiguous()


def test_only_a_learnable_matrix_is_trained():
    assert not CEConv2d(1, 3, 3, 2, 3).transformation_matrix.requires_grad
    layer = CEConv2d(1, 3, 3, 2, 3, learnable=True)
    layer(torch.randn(1, 3, 5, 5)).sum().backward()
    assert layer.transformation_matrix.grad is not None


def test_stored_matrix_is_the_truth():
    layer = CEConv2d(1, 2, 3, 1, 1, bias=False)
    with torch.no_grad():
        layer.transformation_matrix.copy_(2 * torch.eye(3))
    first, second = layer(torch.randn(1, 3, 2, 2)).unbind(2)
    assert torch.allclose(second, 2 * first)


@pytest.mark.parametrize("rotations", [(0, 3), (1, 0)])
def test_refuses_rotations_below_one(rotations):
    with pytest.raises(ConversionError, match="rotations are at least 1"):
        CEConv2d(*rotations, 3, 2, 3)


def test_refuses_a_lifting_layer_of_other_than_three_colors():
    with pytest.raises(ConversionError, match="in_channels=4"):
        CEConv2d(1, 3, 4, 2, 3)


def test_both_spellings_are_one_class():
    assert CEConv2D is CEConv2d


def test_pickles_from_before_separable_layers_load():
    layer = CEConv2d(3, 3, 2, 2, 3, separable=False)
    del layer.separable
    assert pickle.loads(pickle.dumps(layer)).separable is False


@pytest.mark.parametrize(
    "arguments",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 3, "stride": 1}],
)
def test_group_max_pool_pools_every_plane(arguments):
    x = torch.randn(2, 4, 3, 9, 8)
    pooled = GroupMaxPool2d(**arguments)(x)
    for rotation in range(3):
        assert torch.equal(pooled[:, :, rotation], nn.MaxPool2d(**arguments)(x[:, :, rotation]))


def test_group_max_pool_gives_indices_where_asked_for():
    values, indices = GroupMaxPool2d(2, return_indices=True)(torch.randn(1, 4, 3, 8, 8))
    assert values.shape == indices.shape == (1, 4, 3, 4, 4)


def test_coset_pools_reduce_the_rotations():
    x = torch.randn(2, 4, 3, 5, 6)
    assert torch.equal(GroupCosetMaxPool()(x), x.amax(2))
    assert torch.allclose(GroupCosetAvgPool()(x), x.mean(2))


def test_public_names():
    assert sorted(ceconv_convert.__all__) == [
        "BenchError",
        "CEConv2D",
        "CEConv2d",
        "ConversionError",
        "ExportError",
        "GroupCosetAvgPool",
        "GroupCosetMaxPool",
        "GroupMaxPool2d",
        "InputShapeError",
        "NothingToConvertError",
        "OutputError",
        "Plan",
        "RefusedLayerError",
        "SpecError",
        "StateDictError",
        "UnreadableInputError",
        "Verdict",
        "VerificationError",
        "accelerate",
        "convert",
        "export_onnx",
        "load",
        "migrate_checkpoint",
        "migrate_state_dict",
        "plan",
        "verify",
    ]
    for name in ceconv_convert.__all__:
        assert getattr(ceconv_convert, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ceconv_convert.nothing  # noqa: B018
