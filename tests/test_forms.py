"""One table of cases × all forms."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ceconv_convert.conversion.find import read_layer
from ceconv_convert.conversion.plan import plan
from ceconv_convert.errors import SpecError
from ceconv_convert.forms.conv3d import CircularConv3d, ColorStackConv3d
from ceconv_convert.forms.table import FORMS, TABLE, form_named
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.color import hue_rotation_matrix
from ceconv_convert.kernel.spec import LiftingSpec
from ceconv_convert.layers.ceconv2d import CEConv2d
from ceconv_convert.verification.tolerance import Measure
from tests.support import golden_layers, relative

GOLDEN = pytest.mark.parametrize("golden", golden_layers(), ids=lambda golden: golden.name)
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@EVERY_FORM
@GOLDEN
def test_golden_layer_in_float64(golden, form):
    layer = form.build(read_layer(golden.layer(torch.float64)))
    output = layer(golden.input.double())
    assert output.is_contiguous()
    assert relative(output, golden.output_float64) <= 1e-12


@EVERY_FORM
@GOLDEN
def test_golden_layer_in_float32_is_as_exact_as_the_published_one(golden, form):
    output = form.build(read_layer(golden.layer()))(golden.input)
    own = float((golden.output - golden.output_float64).abs().max())
    error = float((output.detach() - golden.output_float64).abs().max())
    assert Measure(error, own, float(golden.output_float64.abs().max()), torch.float32).problem is None


@EVERY_FORM
@GOLDEN
def test_a_plan_knows_what_is_built(golden, form):
    layer = golden.layer()
    built, (row,) = form.build(read_layer(layer)), plan(layer, form.name)
    assert row.form == built.form == (form.name if form.applies(read_layer(layer)) else "conv3d")
    assert row.bytes_after == sum(tensor.nbytes for tensor in built.state_dict().values())
    assert f"rotations={built.in_rotations}→{built.out_rotations}" in repr(built)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@EVERY_FORM
@pytest.mark.parametrize("kernel", [2, 4, (2, 3)])
def test_same_padding_with_an_even_kernel(form, kernel):
    torch.manual_seed(0)
    for layer in (CEConv2d(1, 4, 3, 2, kernel, padding="same"), CEConv2d(3, 3, 2, 2, kernel, padding="same")):
        layer.double()
        x = torch.randn(2, 3, 3, 7, 6) if layer.in_rotations == 3 else torch.randn(2, 3, 7, 6)
        x = x[:, : layer.in_channels].double()
        assert relative(form.build(read_layer(layer))(x), layer(x)) <= 1e-12


@EVERY_FORM
@pytest.mark.parametrize("rotations", range(2, 13))
@pytest.mark.parametrize("matrix", ["hue", "any"])
def test_lifting_to_any_rotations_with_any_matrix(form, rotations, matrix):
    torch.manual_seed(rotations)
    layer = CEConv2d(1, rotations, 3, 4, 3, padding=(2, 0), stride=(1, 2), learnable=matrix == "any").double()
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    converted = form.build(read_layer(layer))
    assert relative(converted(x), layer(x)) <= 1e-12
    assert relative(converted(x.unsqueeze(2)), layer(x)) <= 1e-12


@EVERY_FORM
@pytest.mark.parametrize("n_out", [1, 2, 5, 7])
@pytest.mark.parametrize("n_in", [2, 3, 4, 5, 12])
def test_rotations_in_and_out_differ(form, n_in, n_out):
    torch.manual_seed(n_in)
    layer = CEConv2d(n_in, n_out, 2, 3, 3, padding=1).double()
    x = torch.randn(2, 2, n_in, 5, 6, dtype=torch.float64)
    assert relative(form.build(read_layer(layer))(x), layer(x)) <= 1e-12


CHANGES = {
    "weight": {"weight": torch.full((2, 3, 1, 2, 2), 0.5)},
    "bias": {"bias": torch.tensor([1.0, 2.0])},
    "matrix": {"matrix": hue_rotation_matrix(5)},
    "out_rotations": {"out_rotations": 2},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": ((0, 1), (2, 0))},
}


@EVERY_FORM
@pytest.mark.parametrize("field", CHANGES)
def test_every_field_matters(form, field):
    """Each field of the spec changes what each form computes, as it changes the closed form."""
    weight = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    spec = LiftingSpec(weight, None, 4, (1, 1), ((0, 0), (0, 0)), hue_rotation_matrix(4))
    changed = replace(spec, **CHANGES[field])
    x = torch.randn(1, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    before, after = (form.build(s)(x) for s in (spec, changed))
    assert before.shape != after.shape or not torch.allclose(before, after)
    exact = evaluate(changed.map(lambda tensor: tensor.double()), x.double())
    assert relative(after, exact) < 1e-5


@pytest.mark.parametrize("rotations", [3, 5, 7])
def test_a_plain_circular_conv3d_takes_the_weight_of_a_hidden_layer(rotations):
    """The seed's own move: load the converted state dict into ``nn.Conv3d``."""
    torch.manual_seed(0)
    layer = CEConv2d(rotations, rotations, 4, 5, 3, separable=False).double()
    converted = FORMS["conv3d"].build(read_layer(layer))
    plain = nn.Conv3d(
        4, 5, (rotations, 3, 3), padding=((rotations - 1) // 2, 0, 0), padding_mode="circular"
    ).double()
    plain.load_state_dict(converted.state_dict())
    x = torch.randn(2, 4, rotations, 7, 8, dtype=torch.float64)
    assert relative(plain(x), layer(x)) <= 1e-12


def test_lifting_to_three_hues_is_the_seeds_permuted_conv3d():
    torch.manual_seed(0)
    layer = CEConv2d(1, 3, 3, 16, 3)
    converted = FORMS["conv3d"].build(read_layer(layer))
    assert isinstance(converted, CircularConv3d)
    seed = layer.weight.detach().permute(0, 2, 1, 3, 4)[:, :, (2, 0, 1)]
    assert torch.equal(converted.weight, seed)
    plain = nn.Conv3d(1, 16, (3, 3, 3), padding=(1, 0, 0), padding_mode="circular")
    plain.load_state_dict({"weight": converted.weight, "bias": converted.bias})
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(plain(x.unsqueeze(1)), layer(x), atol=1e-6)


def test_other_lifting_layers_keep_their_weight_unpermuted():
    layer = CEConv2d(1, 6, 3, 4, 3)
    converted = FORMS["conv3d"].build(read_layer(layer))
    assert isinstance(converted, ColorStackConv3d)
    assert torch.equal(converted.weight, layer.weight.transpose(1, 2))


def test_a_learnable_matrix_goes_on_learning():
    layer = CEConv2d(1, 5, 3, 4, 3, learnable=True)
    converted = FORMS["conv3d"].build(read_layer(layer))
    x = torch.randn(1, 3, 6, 6)
    for each in (layer, converted):
        each(x).square().sum().backward()
    assert torch.allclose(
        converted.transformation_matrix.grad, layer.transformation_matrix.grad, rtol=1e-4, atol=1e-4
    )


@EVERY_FORM
def test_building_draws_no_random_numbers(form):
    spec = read_layer(CEConv2d(3, 3, 2, 2, 3))
    state = torch.get_rng_state()
    layer = form.build(spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(layer, TargetLayer)


def test_conv3d_layers_are_conv3d_and_others_are_refused_as_circular():
    spec = read_layer(CEConv2d(1, 4, 3, 2, 3))
    assert isinstance(FORMS["conv3d"].build(spec), nn.Conv3d)
    with pytest.raises(SpecError, match="not cyclic"):
        CircularConv3d(spec)


def test_a_form_that_does_not_exist():
    with pytest.raises(SpecError, match="one of conv3d, conv2d, fourier; found 'fft'"):
        form_named("fft")


@GOLDEN
def test_factors_are_the_layer(golden):
    """What the compiler writes, in every form that applies, in PyTorch: T, one grouped convolution, U."""
    spec = read_layer(golden.layer(torch.float64))
    # A stored matrix of float32 is a hue rotation up to its eps.
    tolerance = 1e-6 if isinstance(spec, LiftingSpec) else 1e-12
    forms = [form for form in TABLE if form.factors is not None and form.applies(spec)]
    assert forms
    for form in forms:
        y = by_factors(form.factors(spec), spec, golden.input.double())
        assert relative(y, golden.output_float64) <= tolerance, form.name


def by_factors(factors, spec, x):
    """``[B, I, N_in, H, W]``, or as an image, → ``[B, O, N_out, H', W']``."""
    x = x.unflatten(1, (-1, spec.in_rotations)) if x.dim() == 4 else x
    x = x.transpose(1, 2)  # [B, N_in, I, H, W]
    if factors.forward is not None:
        x = torch.einsum("mj,bj...->bm...", factors.forward, x)
    (top, bottom), (left, right) = spec.padding
    weight, bias = factors.weight, None if factors.bias is None else factors.bias.flatten()
    kernels, groups = weight.flatten(0, 2).flatten(1, 2), len(weight)
    y = F.conv2d(
        F.pad(x.flatten(1, 2), (left, right, top, bottom)), kernels, bias, spec.stride, groups=groups
    )
    y = y.unflatten(1, (-1, spec.out_channels))  # [B, g·a, O, H', W']
    if factors.inverse is not None:
        y = torch.einsum("rm,bm...->br...", factors.inverse, y)
    return y.transpose(1, 2)
