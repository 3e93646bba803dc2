"""The verdict: passes what is right, fails what is wrong, names the layer, leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, convert, verify
from ceconv_convert.conversion.find import find_layers
from ceconv_convert.errors import InputShapeError, VerificationError
from ceconv_convert.forms.table import FORMS
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.judge import judge, judge_module
from ceconv_convert.verification.outputs import Recording, Step
from ceconv_convert.verification.reference import Example, Networks, Rounding, make_networks
from ceconv_convert.verification.shapes import other_size, random_input
from ceconv_convert.verification.tolerance import ARITHMETIC_EPS, MULTIPLE, Measure, distance, largest, pool
from ceconv_convert.verification.trace import Trace
from tests import foreign
from tests.support import golden_layers, relative, same_state, small_network

EVERY_FORM = pytest.mark.parametrize("form", FORMS)


@EVERY_FORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_right_conversion_passes(form, dtype):
    model = small_network().to(dtype)
    verdict = verify(model, convert(model, form))
    assert verdict.passed, str(verdict)
    assert bool(verdict)
    assert [case.shape for case in verdict.cases] == [(1, 3, 32, 32), (2, 3, 32, 32), (3, 3, 40, 36)]
    assert [layer.name for layer in verdict.layers] == ["0", "4", "7"]
    assert str(verdict).startswith("PASS: the converted network: worst error ")


@pytest.mark.parametrize("golden", golden_layers(), ids=lambda golden: golden.name)
def test_the_reference_is_the_published_layer_in_float64(golden):
    layer = golden.layer()
    networks = make_networks(layer, find_layers(layer))
    assert list(networks.specs) == [""]
    assert relative(networks.reference(golden.input.double()), golden.output_float64) <= 1e-12


def test_a_strangers_network_passes():
    torch.manual_seed(0)
    model = foreign.Network()
    assert verify(model, convert(model)).passed


@EVERY_FORM
def test_hooks_that_change_an_output_count_in_the_network_alone(form):
    model = small_network()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    converted = convert(model, form)
    assert verify(model, converted).passed
    converted[0]._forward_hooks.clear()
    assert "is above the tolerance" in str(verify(model, converted))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_strangers_network_passes_in_a_dtype_that_it_cannot_run_in(dtype):
    torch.manual_seed(0)
    model = foreign.Network().to(dtype)
    assert verify(model, convert(model)).passed


def test_a_model_without_numbers_cannot_be_judged():
    model = small_network().to("meta")
    with pytest.raises(VerificationError, match="meta device"):
        verify(model, model)


@pytest.mark.slow
def test_no_false_alarms_on_many_networks():
    for seed in range(20):
        model = small_network(rotations=2 + seed % 5, width=3 + seed % 4, seed=seed)
        verdict = verify(model, convert(model), seed=seed)
        assert verdict.passed, f"seed {seed}: {verdict}"


DAMAGES = {
    "a weight off by 1e-3": lambda layer: layer.weight.view(-1)[3].add_(1e-3),
    "a permutation swapped": lambda layer: layer.weight.copy_(layer.weight.roll(1, 2)),
    "a bias off by 1e-3": lambda layer: layer.bias[0].add_(1e-3),
    "rotations reversed": lambda layer: layer.weight.copy_(layer.weight.flip(2)),
    "one rotation off in one channel": lambda layer: layer.weight[0].copy_(layer.weight[0].roll(1, 1)),
    "a wrong padding": lambda layer: setattr(layer, "padding", (0, layer.padding[1] + 1, layer.padding[2])),
    "a weight that is not a number": lambda layer: layer.weight.view(-1)[0].fill_(float("nan")),
    "an infinite weight": lambda layer: layer.weight.view(-1)[0].fill_(float("inf")),
    "a weight of the wrong shape": lambda layer: setattr(
        layer, "weight", nn.Parameter(layer.weight[:, :, :2])
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["0", "7"])
def test_a_damaged_layer_fails_and_is_named(damage, name):
    model = small_network()
    converted = convert(model)
    with torch.no_grad():
        damage(converted.get_submodule(name))
    verdict = verify(model, converted)
    assert not verdict.passed
    assert str(verdict).startswith(f"FAIL: the converted network: layer {name}: ")


def test_damage_outside_the_layers_fails_too():
    model = small_network()
    converted = convert(model)
    with torch.no_grad():
        converted[-1].bias[0].add_(1e-3)
    assert "is above the tolerance" in str(verify(model, converted))


def test_an_original_that_is_not_its_closed_form_fails():
    """Else its own error would widen the tolerance until anything passes."""
    model = small_network()
    evidence = gather(model)
    layer = evidence.layers["4"][0]
    layer.original.mul_(1.01)
    verdict = judge_module(evidence, convert(model), "the network")
    assert "layer 4: the original is" in str(verdict)


def test_an_original_that_gives_nan_fails():
    model = small_network()
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    assert "the reference gives NaN or Inf" in str(verify(model, convert(model)))


def test_outputs_of_another_shape_number_or_dtype_fail():
    model = small_network()
    converted = convert(model)
    assert "it gives shape 1×2, the original 1×4" in str(
        verify(model, nn.Sequential(*converted[:-1], nn.Linear(5, 2)))
    )
    assert "it gives torch.float64" in str(verify(model, nn.Sequential(*converted, _Cast())))
    assert "it gives 2 outputs, the original 1" in str(verify(model, nn.Sequential(*converted, _Twice())))
    assert "it does not run on 1×3×32×32" in str(verify(model, nn.Sequential(*converted, nn.Linear(9, 9))))


class _Cast(nn.Module):
    def forward(self, x):
        return x.double()


class _Twice(nn.Module):
    def forward(self, x):
        return {"first": x, "second": [x, None]}


def test_nested_outputs_are_compared():
    model = nn.Sequential(*small_network(), _Twice()).eval()
    verdict = verify(model, convert(model))
    assert verdict.passed


def test_other_outputs_cannot_be_compared():
    class Text(nn.Module):
        def forward(self, x):
            return "text"

    model = nn.Sequential(*small_network(), Text())
    with pytest.raises(VerificationError, match="gives str"):
        verify(model, convert(model))


def test_a_forward_pass_that_changes_its_input_hides_no_damage():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(0.45).div_(0.25)

    model = nn.Sequential(InPlace(), *small_network())
    converted = convert(model)
    assert verify(model, converted).passed
    with torch.no_grad():
        converted[-1].weight[1] *= 1.2
    assert "is above the tolerance" in str(verify(model, converted))


def test_an_original_that_runs_on_some_batches_alone_is_said():
    model = nn.Sequential(*small_network(), nn.Unflatten(0, (2, 1)))
    with pytest.raises(InputShapeError, match=r"runs on none of .* unflatten"):
        verify(model, convert(model))


def test_nothing_is_changed():
    model = small_network().train()
    converted = convert(model)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(converted.state_dict())
    state = torch.get_rng_state()
    verify(model, converted)
    assert same_state(model.state_dict(), before[0])
    assert same_state(converted.state_dict(), before[1])
    assert model.training
    assert converted.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_verdict():
    model = small_network()
    converted = convert(model)
    assert verify(model, converted, seed=3) == verify(model, converted, seed=3)
    assert verify(model, converted, seed=3) != verify(model, converted, seed=4)


def test_a_network_of_one_image_size_is_judged_there():
    torch.manual_seed(0)
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.Flatten(), nn.Linear(2 * 3 * 26 * 26, 4))
    evidence = gather(model)
    assert evidence.shape == (3, 28, 28)
    assert "mat1 and mat2" in evidence.fixed_size
    verdict = verify(model, convert(model))
    assert verdict.passed
    assert len(verdict.cases) == 3


def test_a_network_of_features_is_fed_features():
    torch.manual_seed(0)
    model = nn.Sequential(CEConv2d(4, 4, 5, 2, 3), CEConv2d(4, 4, 2, 2, 3))
    assert gather(model).shape == (5, 4, 32, 32)
    assert verify(model, convert(model)).passed


def test_given_and_missing_input_shapes():
    model = small_network()
    assert gather(model, (3, 19, 23)).shape == (3, 19, 23)
    with pytest.raises(InputShapeError, match="does not run on inputs of shape 4×32×32: "):
        gather(model, (4, 32, 32))
    with pytest.raises(InputShapeError, match="none of the usual input shapes .3×32×32, .* say which"):
        gather(nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.Flatten(), nn.Linear(7, 7)))


def test_a_network_that_cannot_run_in_float64():
    class Float32Only(nn.Module):
        def forward(self, x):
            return x @ torch.ones(4, 4)

    model = nn.Sequential(*small_network(), Float32Only())
    with pytest.raises(VerificationError, match="does not run in float64"):
        verify(model, convert(model))


def test_progress_runs_to_its_end():
    seen = []
    gather(small_network(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_tolerance_is_what_it_says():
    measure = Measure(1e-5, 1e-6, 2.0, torch.float32)
    assert measure.tolerance == MULTIPLE * 1e-6 + (ARITHMETIC_EPS + 1) * 2.0 * torch.finfo(torch.float32).eps
    assert measure.problem == "its error 1.0e-05 is above the tolerance 8.1e-06"
    assert Measure(7e-6, 1e-6, 2.0, torch.float32).problem is None
    assert Measure(1e-9, 0.0, 0.0, torch.float32).problem is not None
    assert Measure(float("nan"), 1.0, 1.0, torch.float32).problem is not None
    assert pool([measure, Measure(1e-9, 1e-3, 1.0, torch.float32)]).original_error == 1e-3


def test_each_output_has_a_tolerance_of_its_own():
    """A large output must not excuse a small one."""

    class Both(nn.Module):
        def forward(self, x):
            return 1e6 * x, x

    model = nn.Sequential(*small_network(), Both())
    converted = convert(model)
    assert verify(model, converted).passed
    with torch.no_grad():
        converted[-2].bias[0] += 1e-3
    assert not verify(model, converted).passed


def test_inputs_are_standard_normal_and_seeded():
    x = random_input((100, 100), 0, torch.float32, torch.device("cpu"))
    assert torch.equal(x, random_input((100, 100), 0, torch.float32, torch.device("cpu")))
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    assert other_size((3, 2, 8, 9)) == (3, 2, 16, 13)


class Noisy(nn.Module):
    """Dropout that eval mode does not switch off."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def forward(self, x):
        return nn.functional.dropout(self.inner(x), 0.5)


class Counting(nn.Module):
    """Its output grows with every call."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * self.calls


class Deciding(nn.Module):
    """Scores, the class and whether it is sure: floats, integers and bools."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def forward(self, x):
        scores = self.inner(x)
        return {"scores": scores, "class": scores.argmax(1), "sure": scores.amax(1) > 0}


@pytest.mark.parametrize("build", [Noisy, Counting])
def test_an_original_that_does_not_repeat_itself_is_no_measure(build):
    torch.manual_seed(0)
    model = build()
    with pytest.raises(VerificationError, match="random in eval mode, or keeps state"):
        verify(model, convert(model))


def test_an_original_far_from_its_reference_is_no_measure():
    model = nn.Sequential(small_network(), foreign.InFloat32(lambda x: x * (1 + 1e-2)))
    with pytest.raises(VerificationError, match="from its own float64 reference"):
        verify(model, convert(model))


def test_lazy_modules_are_named():
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(VerificationError, match=r"2\.weight, 2\.bias has no numbers yet"):
        verify(model, model)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "factor"), [(torch.bfloat16, 1.06), (torch.float16, 1.01)])
@pytest.mark.parametrize("layer", ["0", "4", "7"])
@EVERY_FORM
def test_small_damage_shows_in_half_precision(form, layer, dtype, factor):
    model = small_network().to(dtype)
    converted = convert(model, form)
    with torch.no_grad():
        converted.get_submodule(layer).weight.mul_(factor)
    assert f"layer {layer}: its error" in str(verify(model, converted))


def test_integers_and_bools_are_compared_for_equality():
    model = Deciding()
    verdict = verify(model, convert(model))
    assert verdict.passed, str(verdict)
    assert {case.output for case in verdict.cases} == {0, 1, 2}
    damaged = convert(model)
    for parameter in damaged.inner[-1].parameters():
        parameter.data = parameter.data.flip(0)
    verdict = verify(model, damaged)
    assert any(case.output == 1 and case.measure.problem for case in verdict.cases)


@pytest.mark.parametrize("error", [NameError, ImportError, MemoryError, KeyError, StopIteration])
def test_whatever_a_forward_pass_raises_is_one_sentence(error):
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), foreign.Raising(error("here")))
    with pytest.raises(InputShapeError, match="here"):
        verify(model, model)


class Giving(nn.Module):
    """A network whose output goes through a function."""

    def __init__(self, function):
        super().__init__()
        self.inner = small_network()
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))


def test_complex_outputs_are_pairs_of_numbers():
    model = Giving(lambda y: torch.complex(0 * y, y))
    assert verify(model, convert(model)).passed
    damaged = convert(model)
    damaged.inner[-1].weight.data *= 1.01
    assert not verify(model, damaged).passed


@pytest.mark.parametrize("function", [lambda y: y[:0], lambda y: []], ids=["empty", "none"])
def test_a_network_that_gives_nothing_is_not_passed(function):
    model = Giving(function)
    with pytest.raises(VerificationError, match="gives no numbers"):
        verify(model, model)


@EVERY_FORM
@pytest.mark.parametrize("rotations", [3, 12, 64])
def test_a_matrix_near_the_cycle_is_no_false_alarm(form, rotations):
    torch.manual_seed(0)
    layer = CEConv2d(1, rotations, 3, 4, 3)
    layer.transformation_matrix.data = torch.eye(3).roll(1, 0) + 3e-7
    assert verify(layer, convert(layer, form)).passed


def test_an_attribute_that_hides_a_module_changes_nothing():
    model = foreign.Network().eval()
    vars(model)["head"] = torch.nn.functional.relu  # the module stays registered
    assert verify(model, convert(model)).passed


def test_an_output_that_cancels_is_held_to_the_roundings_behind_it():
    """Means of normalized images are 0: what a network gives of them are roundings, and nothing else."""
    torch.manual_seed(0)
    model = nn.Sequential(CEConv2d(1, 3, 3, 6, 3), GroupCosetMaxPool(), nn.InstanceNorm2d(6))
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1)).eval()
    evidence = gather(model, (3, 64, 64))
    assert judge_module(evidence, convert(model), "the network").passed
    far = judge(evidence, lambda x: (model(x).detach() + 1e-4,), "another network")
    assert "above the tolerance" in str(far)


NORMS = {
    "instance": lambda: nn.InstanceNorm2d(6, affine=True),
    "group": lambda: nn.GroupNorm(2, 6),
    "layer": lambda: nn.LayerNorm([6, 9, 9]),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_normalization_of_nearly_constant_features_rounds_their_mean(norm):
    """They are far from 0 and hardly differ: what rounds their mean moves all that is left of them."""
    module, eps = norm().double().eval().requires_grad_(False), torch.finfo(torch.float32).eps
    x = 8 + 1e-2 * torch.randn(1, 6, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    with Rounding(eps):
        rounded = module(x)
    assert eps * 8 / 2e-2 < distance(rounded, module(x)) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_roundings_move_an_output_about_as_far_as_its_own_error(seed):
    model = small_network(seed=seed)
    evidence = gather(model)
    for example in evidence.random:
        (moved,), (exact,) = example.sensitivity, example.reference.outputs
        assert distance(example.original.outputs[0], exact) / 2 < moved < 1e-5 * largest(exact)


def test_a_step_is_not_taken_for_a_neighbour_that_a_sample_cannot_tell_apart():
    """A clamp that one number of ten thousand reaches."""
    before = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0)).clamp(-2, 2).double()
    before[0, 0, 3, 1] = 2.5
    after = before.clamp(-2, 2)
    original, reference = (
        Recording(steps=[Step("clamp", 0, after.to(dtype), ())]) for dtype in (torch.float32, torch.float64)
    )
    network = nn.Sequential()
    network.add_module("clamp", nn.Hardtanh(-2.0, 2.0))
    trace = Trace(Example(before.float, original, reference, Networks(network, network, {})))
    for values in ([before, after], [after, before]):
        (check,) = trace.compare_values([value.float() for value in values])
        assert check.problem is None
    (check,) = trace.compare_values([before.float()])
    assert check.problem is not None
