"""The algebra, as properties: definition, closed form and circular form say the same."""

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.circular import is_cyclic, to_circular, unroll, wrap
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.color import color_order, hue_rotation_matrix, matrix_powers, order_of_powers
from ceconv_convert.kernel.cyclic_fourier import transform_of
from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.spec import CyclicSpec, LiftingSpec, normalize_padding, normalize_pair
from tests.support import relative


@st.composite
def specs(draw, kind=None):
    """A layer in float64: any kind, rotations up to 12, stride and padding, with or without bias."""
    kind = draw(st.sampled_from(["lifting", "cyclic"])) if kind is None else kind
    n_in = 1 if kind == "lifting" else draw(st.integers(2, 12))
    n_out = draw(st.integers(1, 12)) if draw(st.booleans()) else max(n_in, 2)
    channels = 3 if kind == "lifting" else draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(2, channels, n_in, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    matrix = None
    if kind == "lifting":
        matrix = hue_rotation_matrix(n_out, torch.float64)
        if draw(st.booleans()):
            matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64) / 3
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if kind == "lifting":
        return LiftingSpec(weight, bias, n_out, stride, padding, matrix)
    return CyclicSpec(weight, bias, n_out, stride, padding)


def random_input(spec, batch=2, size=(6, 5)):
    shape = spec.input_shape(batch, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_definition(spec, x):
    """The sums of the paper, written out with loops."""
    (top, bottom), (left, right) = spec.padding
    x = F.pad(x, (left, right, top, bottom))
    outputs = []
    for r in range(spec.out_rotations):
        if isinstance(spec, LiftingSpec):
            kernel = torch.einsum("ij,ojnhw->oihw", torch.linalg.matrix_power(spec.matrix, r), spec.weight)
            y = F.conv2d(x, kernel, None, spec.stride)
        else:
            n = spec.in_rotations
            y = sum(F.conv2d(x[:, :, j], spec.weight[:, :, (j - r) % n], None, spec.stride) for j in range(n))
        outputs.append(y if spec.bias is None else y + spec.bias.view(1, -1, 1, 1))
    return torch.stack(outputs, 2)


@given(specs())
def test_closed_form_is_the_definition(spec):
    x = random_input(spec)
    assert relative(evaluate(spec, x), by_definition(spec, x)) < 1e-12


@given(specs())
def test_expanded_kernel_is_the_definition(spec):
    x = random_input(spec)
    (top, bottom), (left, right) = spec.padding
    flat = F.pad(x.flatten(1, -3), (left, right, top, bottom))
    bias = None if spec.bias is None else spec.bias.repeat_interleave(spec.out_rotations)
    y = F.conv2d(flat, expand(spec), bias, spec.stride).unflatten(1, (-1, spec.out_rotations))
    assert relative(y, by_definition(spec, x)) < 1e-12


@given(specs(kind="cyclic"))
def test_circular_convolution_is_the_definition(spec):
    spec = replace(spec, padding=((0, 0), (0, 0)))
    x = random_input(spec)
    y = F.conv3d(wrap(x, spec.out_rotations), to_circular(spec.weight), spec.bias, (1, *spec.stride))
    assert relative(unroll(y, spec.out_rotations), by_definition(spec, x)) < 1e-12


@given(specs(kind="cyclic"))
def test_features_roll_with_their_input(spec):
    spec = replace(spec, out_rotations=spec.in_rotations)
    x = random_input(spec)
    assert relative(evaluate(spec, x.roll(1, 2)), evaluate(spec, x).roll(1, 2)) < 1e-12


@given(st.integers(2, 12))
def test_features_roll_with_the_hue(rotations):
    matrix = hue_rotation_matrix(rotations, torch.float64)
    weight = torch.randn(2, 3, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spec = LiftingSpec(weight, None, rotations, (1, 1), ((0, 0), (0, 0)), matrix)
    x = random_input(spec)
    rotated = torch.einsum("ij,bihw->bjhw", matrix, x)
    assert relative(evaluate(spec, rotated).roll(1, 2), evaluate(spec, x)) < 1e-12


@given(st.integers(1, 12), st.integers(1, 12))
def test_wrap_gives_each_output_its_window(rotations, out_rotations):
    x = torch.arange(rotations).view(1, 1, rotations, 1, 1)
    wrapped = wrap(x, out_rotations).flatten().tolist()
    p = (rotations - 1) // 2
    count = min(rotations, out_rotations)
    assert wrapped == [(i - p) % rotations for i in range(count + rotations - 1)]


@given(st.integers(1, 12))
def test_hue_matrix_turns_about_grey(rotations):
    matrix = hue_rotation_matrix(rotations, torch.float64)
    grey = torch.ones(3, dtype=torch.float64)
    assert torch.allclose(matrix @ grey, grey, atol=1e-14)
    assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert torch.linalg.det(matrix).item() == pytest.approx(1)
    assert torch.trace(matrix).item() == pytest.approx(1 + 2 * math.cos(2 * math.pi / rotations))
    assert torch.allclose(
        torch.linalg.matrix_power(matrix, rotations), torch.eye(3, dtype=torch.float64), atol=1e-13
    )


def test_seed_permutation():
    assert to_circular(torch.arange(3).view(1, 1, 3, 1, 1)).flatten().tolist() == [2, 0, 1]


def test_powers_keep_their_dtype_and_the_gradient():
    matrix = torch.rand(3, 3, requires_grad=True)
    powers = matrix_powers(matrix, 4)
    assert powers.dtype == torch.float32
    assert torch.allclose(powers[3], torch.linalg.matrix_power(matrix, 3))
    powers.sum().backward()
    assert matrix.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_color_cycle_in_every_dtype(dtype):
    matrix = hue_rotation_matrix(3, dtype)
    assert color_order(matrix) == "cycle"
    assert order_of_powers(matrix, 3) == "cycle"
    assert color_order(matrix.T.contiguous()) == "other"
    assert order_of_powers(matrix + 32 * torch.finfo(dtype).eps, 3) != "cycle"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_few_digits_are_no_excuse_to_drop_a_matrix(dtype):
    assert color_order((hue_rotation_matrix(3) + 0.003).to(dtype)) == "other"


def test_a_matrix_rounded_to_float32_is_ordered_alike_and_not_the_same_in_float64():
    matrix = (hue_rotation_matrix(3) + 1e-7).double()
    assert color_order(matrix) == color_order(matrix.float()) == "cycle"
    assert order_of_powers(matrix.float(), 3) == "cycle"
    assert order_of_powers(matrix, 3) != "cycle"
    assert order_of_powers(matrix.float() + 2e-7, 12) != "cycle"  # its 11th power is 11 times as far off


def test_a_lifting_layer_with_another_matrix_is_not_cyclic():
    weight = torch.randn(2, 3, 1, 3, 3)
    spec = LiftingSpec(weight, None, 3, (1, 1), ((0, 0), (0, 0)), torch.rand(3, 3))
    assert not is_cyclic(spec)
    assert is_cyclic(replace(spec, matrix=hue_rotation_matrix(3)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("padding", "kernel", "expected"),
    [
        (0, (3, 3), ((0, 0), (0, 0))),
        ((1, 2), (3, 3), ((1, 1), (2, 2))),
        ([1], (3, 3), ((1, 1), (1, 1))),
        ("valid", (5, 5), ((0, 0), (0, 0))),
        ("same", (3, 5), ((1, 1), (2, 2))),
        ("same", (2, 4), ((0, 1), (1, 2))),
    ],
)
def test_padding_as_torch_does_it(padding, kernel, expected):
    assert normalize_padding(padding, kernel, (1, 1)) == expected
    if padding == "same":
        x, w = torch.randn(1, 1, 6, 7), torch.randn(1, 1, *kernel)
        (top, bottom), (left, right) = expected
        ours = F.conv2d(F.pad(x, (left, right, top, bottom)), w)
        assert torch.allclose(ours, F.conv2d(x, w, padding="same"))


SPEC = CyclicSpec(torch.ones(2, 3, 4, 3, 3), torch.ones(2), 4, (1, 1), ((0, 0), (0, 0)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": torch.ones(2, 3, 3, 3)}, "found \\[2, 3, 3, 3\\]"),
        ({"weight": torch.ones(2, 3, 4, 3, 3, dtype=torch.int32)}, "floating point"),
        ({"out_rotations": 0}, "rotations in and out are 1 to 360"),
        ({"out_rotations": 10**7}, "rotations in and out are 1 to 360"),
        ({"bias": torch.ones(3)}, "shape \\[2\\], found \\[3\\]"),
        ({"stride": (0, 1)}, "stride is 1 to 1024"),
        ({"padding": ((0, 0), (-1, 0))}, "padding is 0 to 32"),
        ({"padding": ((1, -1), (0, 0))}, "padding is 0 to 32"),
    ],
)
def test_specs_that_do_not_fit_together(changes, sentence):
    with pytest.raises(SpecError, match=sentence):
        replace(SPEC, **changes)


def test_lifting_specs_have_a_matrix_and_three_colors():
    spec = LiftingSpec(torch.ones(2, 3, 1, 3, 3), None, 3, (1, 1), ((0, 0), (0, 0)), torch.eye(3))
    with pytest.raises(SpecError, match="shape \\[3, 3\\], found \\[2, 2\\]"):
        replace(spec, matrix=torch.eye(2))
    with pytest.raises(SpecError, match="found \\[2, 3, 3, 3, 3\\]"):
        replace(spec, weight=torch.ones(2, 3, 3, 3, 3))
    with pytest.raises(SpecError, match="found in_channels=4"):
        replace(spec, weight=torch.ones(2, 4, 1, 3, 3))


@pytest.mark.parametrize("value", [(1, 2, 3), (), ("a", 1)])
def test_pairs_are_pairs(value):
    with pytest.raises(SpecError, match="expected an int or two ints"):
        normalize_pair(value)


@pytest.mark.parametrize(("padding", "sentence"), [("reflect", "'reflect'"), ("same", "needs stride 1")])
def test_padding_words(padding, sentence):
    with pytest.raises(SpecError, match=sentence):
        normalize_padding(padding, (3, 3), (2, 1))


def test_every_field_is_known_to_the_forms_test():
    """A field added to the spec needs a row in test_forms.test_every_field_matters."""
    from tests.test_forms import CHANGES

    assert {field.name for field in fields(LiftingSpec)} == set(CHANGES)


@pytest.mark.parametrize(
    ("rotations", "width"), [*((n, 1) for n in range(2, 25)), *((n, 2) for n in range(2, 25, 2))]
)
def test_the_fourier_products_are_the_cyclic_correlation(rotations, width):
    forward, weight, inverse = transform_of(rotations, width)
    products = 1 + (rotations % 2 == 0) + 3 * ((rotations - 1) // 2)
    groups = products if width == 1 else rotations // 2
    assert (len(weight), len(forward)) == (groups, width * groups)
    forward, inverse = forward.unflatten(0, (-1, width)), inverse.unflatten(1, (-1, width))
    found = torch.einsum("rga,gacd,gcj->rdj", inverse, weight, forward)
    expected = torch.zeros(rotations, rotations, rotations, dtype=torch.float64)
    for r in range(rotations):
        for d in range(rotations):
            expected[r, d, (r + d) % rotations] = 1
    assert (found - expected).abs().max() < 1e-14


def test_one_rotation_has_no_frequencies():
    with pytest.raises(SpecError, match="at least 2 rotations"):
        transform_of(1)
    with pytest.raises(SpecError, match="even number of rotations, found 5"):
        transform_of(5, 2)
