"""Dynamic axes that are not: a file is right at every size that it takes, or has that size fixed."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, export_onnx, verify
from ceconv_convert.onnx.assumptions import Assumption, violations
from ceconv_convert.onnx.capture import capture
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.verification.evidence import gather
from tests.support import relative, shake, small_network


class Sized(nn.Module):
    """It looks at the size of its input."""

    def __init__(self, function):
        super().__init__()
        self.layer = CEConv2d(1, 3, 3, 4, 3)
        self.pool = GroupCosetMaxPool()
        self.function = function

    def forward(self, x):
        return self.function(self, x)

    def features(self, x):
        return self.pool(self.layer(x))


def padded_when_odd(m, x):
    return m.features(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x)


def halved_when_wide(m, x):
    y = m.features(x)
    return y / 2 if x.shape[-1] > 34 else y


def halved_when_narrow(m, x):
    y = m.features(x)
    return y / 2 if x.shape[-1] < 24 else y


def halved_when_square(m, x):
    y = m.features(x)
    return y / 2 if x.shape[-1] == x.shape[-2] else y


def halved_when_large(m, x):
    y = m.features(x)
    return y / 2 if x.shape[-1] * x.shape[-2] > 2000 else y


def halved_in_large_batches(m, x):
    y = m.features(x)
    return y / 2 if x.shape[0] >= 20 else y


def halved_in_even_batches(m, x):
    y = m.features(x)
    return y / 2 if x.shape[0] % 2 == 0 else y


def halved_in_batches_of_eight_and_wide(m, x):
    y = m.features(x)
    y = y / 2 if x.shape[-1] > 40 else y
    return y / 2 if x.shape[0] >= 8 else y


def halved_alone(m, x):
    y = m.features(x)
    return y / 2 if x.shape[0] == 1 else y


SIZE = "height and width are fixed, since with a dynamic size it is wrong unless "
BATCH = "the batch is fixed at 1, since with a dynamic batch it is wrong unless "
FIXED = {
    padded_when_odd: [f"{SIZE}Eq"],
    halved_when_wide: [f"{SIZE}width <= 34: at 1×3×32×35 its error"],
    halved_when_narrow: [f"{SIZE}width >= 24: at 1×3×32×23 its error"],
    halved_when_large: [SIZE],
    halved_in_large_batches: [f"{BATCH}batch <= 19: at 20×3×32×32 its error"],
    halved_in_even_batches: [BATCH],
    halved_in_batches_of_eight_and_wide: [f"{SIZE}width <= 40", f"{BATCH}batch <= 7"],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "conv2d"])
@pytest.mark.parametrize("function", FIXED, ids=lambda function: function.__name__)
def test_what_cannot_be_dynamic_is_fixed_with_the_reason(tmp_path, function, form):
    torch.manual_seed(0)
    model, path = shake(Sized(function)).eval(), tmp_path / "a.onnx"
    with pytest.warns(UserWarning, match="fixed") as warned:
        assert export_onnx(model, path, form=form, input_shape=(3, 32, 32)).passed
    notes = [str(warning.message) for warning in warned]
    assert len(notes) == len(FIXED[function])
    for note, expected in zip(notes, FIXED[function], strict=True):
        assert expected in note
    axes = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert (axes[0].dim_value == 1) is any("batch" in note for note in notes)
    assert (axes[3].dim_value == 32) is any("width" in note for note in notes)
    sizes = (32, 32) if axes[3].dim_value else (35, 22)
    for batch in (1,) if axes[0].dim_value else (1, 3, 21):
        x = torch.randn(batch, 3, *sizes)
        assert relative(OnnxRunner(path)(x)[0], model(x)) < 1e-5
    assert verify(model, path, input_shape=(3, 32, 32)).passed


SPECIAL = (halved_when_square, halved_alone)


@pytest.mark.slow
@pytest.mark.parametrize("function", SPECIAL, ids=lambda function: function.__name__)
def test_what_the_example_cannot_show_is_right_where_it_is_judged(tmp_path, function):
    """Equal sizes, or a single image, are cases of their own: other inputs show what the file does there."""
    torch.manual_seed(0)
    model, path = shake(Sized(function)).eval(), tmp_path / "a.onnx"
    with pytest.warns(UserWarning, match="fixed"):
        assert export_onnx(model, path, input_shape=(3, 32, 32)).passed
    x = torch.randn(1, 3, 32, 32)
    assert relative(OnnxRunner(path)(x)[0], model(x)) < 1e-5


@pytest.mark.slow
def test_a_network_without_branches_stays_dynamic(tmp_path, recwarn):
    assert export_onnx(small_network(), tmp_path / "a.onnx").passed
    assert not recwarn.list
    assert OnnxRunner(tmp_path / "a.onnx").shape == (None, 3, None, None)


@pytest.mark.slow
def test_a_file_that_is_wrong_at_odd_sizes_or_in_large_batches_is_not_passed(tmp_path):
    """Of a file that exists nothing is known but that its axes are dynamic."""
    for function in (padded_when_odd, halved_in_even_batches):
        torch.manual_seed(0)
        model, path = shake(Sized(function)).eval(), tmp_path / "a.onnx"
        write_onnx(model, path, torch.randn(2, 3, 32, 32))
        verdict = verify(model, path, input_shape=(3, 32, 32))
        assert not verdict.passed


@pytest.mark.slow
def test_a_file_of_fixed_axes_is_judged_on_inputs_of_these(tmp_path):
    model, path = small_network(), tmp_path / "a.onnx"
    for fixed in (["size"], ["batch"], ["size", "batch"]):
        batch, size = "batch" not in fixed, "size" not in fixed
        write_onnx(model, path, torch.randn(2, 3, 32, 32), fixed=dict.fromkeys(fixed, ""))
        verdict = verify(model, path, input_shape=(3, 32, 32))
        assert verdict.passed
        assert {case.shape[0] for case in verdict.cases} == ({1, 2, 3, 9} if batch else {1})
        assert len({case.shape[2:] for case in verdict.cases}) == (1 if not size else 4 if batch else 3)


@pytest.mark.parametrize("labels", [None, torch.arange(6) % 4])
def test_the_users_inputs_are_fed_one_by_one_to_a_file_of_batch_one(tmp_path, labels):
    model = small_network()
    evidence = gather(model, (3, 32, 32), data=torch.randn(6, 3, 32, 32), labels=labels)
    suited = evidence.fitting((1, 3, None, None))
    assert [len(x) for x in suited.data] == [1] * 6
    assert torch.equal(torch.cat(suited.data), torch.cat(evidence.data))
    for example in (*suited.random, *suited.user):
        assert torch.equal(example.original.outputs[0], model(example.input))
    assert evidence.fitting((7, 3, None, None)) is evidence
    assert evidence.fitting((None, 3, 32, 32)).user is evidence.user
    assert evidence.fitting((None, 3, 40, 36)).data == ()


@pytest.mark.slow
def test_assumptions_are_what_the_forward_pass_looked_at():
    example = torch.randn(2, 3, 32, 32)
    captured = capture(Sized(halved_in_batches_of_eight_and_wide).eval(), example, 18, fixed={})
    assert {"batch <= 7", "width <= 40"} <= {str(assumption) for assumption in captured.assumptions}
    fixed = capture(Sized(halved_in_batches_of_eight_and_wide).eval(), example, 18, fixed={"batch": ""})
    assert all("batch" not in assumption.axes for assumption in fixed.assumptions)


@pytest.mark.slow
def test_violations_are_near_and_small():
    captured = capture(Sized(halved_when_wide).eval(), torch.randn(2, 3, 32, 32), 18, fixed={})
    wide = next(each for each in captured.assumptions if str(each) == "width <= 34")
    assert isinstance(wide, Assumption)
    found = violations(wide, {"batch": 1, "height": 32, "width": 32})
    assert found[0] == {"batch": 1, "height": 32, "width": 35}
    assert all(not wide.holds(sizes) for sizes in found)


INSTEAD = {
    "attention of 3 axes": (lambda m, x: attention(m.features(x)), r"q\.unsqueeze"),
    "adaptive pooling": (lambda m, x: F.adaptive_avg_pool3d(m.layer(x), (3, 2, 2)), "GroupCosetAvgPool"),
    "no operator": (
        lambda m, x: torch.special.bessel_j0(m.features(x)),
        "has no ONNX operator for prims",
    ),
}


def attention(features):
    y = features.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(y, y, y)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "conv2d"])
@pytest.mark.parametrize(("function", "sentence"), INSTEAD.values(), ids=INSTEAD)
def test_what_torch_cannot_export_says_what_to_do_instead(tmp_path, function, sentence, form):
    with pytest.raises(Exception, match=sentence) as raised:
        export_onnx(Sized(function).eval(), tmp_path / "a.onnx", form=form)
    assert "conv2d may do" not in str(raised.value)
    assert not list(tmp_path.iterdir())
