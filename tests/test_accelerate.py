"""accelerate: the same numbers and gradients, the same parameters, in every way that models are trained."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ceconv_convert import (
    CEConv2d,
    InputShapeError,
    NothingToConvertError,
    SpecError,
    accelerate,
    convert,
    export_onnx,
    load,
    migrate_checkpoint,
    plan,
    verify,
)
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from ceconv_convert.training import accelerate as accelerating
from ceconv_convert.training import fourier_convolution, tune
from ceconv_convert.training.fast_layer import form_of, set_form
from tests import foreign
from tests.support import golden_layers, relative, same_state, shake, small_network

GOLDEN = pytest.mark.parametrize("golden", golden_layers(), ids=lambda golden: golden.name)
WAYS = ("grouped", "single", "patches")
KINDS = {
    "lifting": (1, 3, 3, 2, 3),
    "learnable lifting": (1, 4, 3, 2, 3, True),
    "hidden": (3, 3, 2, 3, (3, 2), False, False, {"stride": (1, 2), "padding": 1}),
    "separable": (4, 4, 3, 2, 3, False, True, {"padding": "same"}),
    "even, same": (2, 2, 2, 2, (2, 1), False, True, {"padding": "same"}),
    "odd": (5, 5, 2, 2, 3, False, True, {"padding": "valid", "bias": False}),
    "other rotations": (3, 5, 2, 2, 3, False, False, {"stride": 2}),
}


def layer_of(kind, dtype=torch.float64):
    torch.manual_seed(0)
    *arguments, options = KINDS[kind] if isinstance(KINDS[kind][-1], dict) else (*KINDS[kind], {})
    layer = CEConv2d(*arguments, **options).to(dtype)
    shape = (2, 3) if layer.in_rotations == 1 else (2, layer.in_channels, layer.in_rotations)
    return layer, torch.randn(*shape, 5, 6, dtype=dtype, requires_grad=True)


def fourier_everywhere(monkeypatch):
    monkeypatch.setattr(accelerating, "_LEAST_SAVED", 0)


@pytest.fixture(autouse=True)
def _fourier(monkeypatch):
    """Layers of tests are small: they have the Fourier form wherever it is exact."""
    fourier_everywhere(monkeypatch)


def steps(model, x, count=3):
    """Losses of a few steps, and the parameters after them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(count):
        loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def gradients(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.requires_grad])


# The same numbers


@GOLDEN
def test_is_as_close_to_float64_as_the_published_layer(golden):
    layer = golden.layer()
    accelerate(layer)
    output = layer(golden.input)
    assert output.is_contiguous()
    own = relative(golden.output, golden.output_float64)
    assert relative(output, golden.output_float64) <= 2 * own + 4 * torch.finfo(torch.float32).eps


@GOLDEN
def test_agrees_in_float64_to_1e_12(golden):
    layer = golden.layer(torch.float64)
    accelerate(layer)
    assert relative(layer(golden.input.double()), golden.output_float64) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_numbers_nearby(monkeypatch, kind, way):
    monkeypatch.setattr(fourier_convolution, "_way", lambda *_: way)
    layer, x = layer_of(kind)
    accelerate(layer)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, *parameters), fast_mode=True)


def test_a_spatial_factor_may_be_shared_by_all_channels():
    layer, x = layer_of("separable")
    layer.weight = nn.Parameter(layer.weight[:, :1].detach())
    expected = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    accelerate(layer)
    found = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    assert all(map(torch.allclose, found, expected))


@pytest.mark.parametrize("rotations", [2, 3, 4, 6, 7, 10])
def test_all_ways_and_numbers_of_rotations_have_the_published_gradients(monkeypatch, rotations):
    model, x = small_network(rotations).double().train(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    exact = gradients(model, x)
    accelerate(model)
    for way in WAYS:
        monkeypatch.setattr(fourier_convolution, "_way", lambda *_, way=way: way)
        assert relative(gradients(model, x), exact) < 1e-9


def test_float32_gradients_of_a_network_are_as_close_to_float64_as_the_published_ones():
    model, x = small_network(3, width=16).train(), torch.randn(8, 3, 32, 32)
    exact = gradients(copy.deepcopy(model).double(), x.double())
    own = (gradients(model, x) - exact).norm()
    accelerate(model)
    assert (gradients(model, x) - exact).norm() <= 2 * own


def test_frozen_parameters_get_no_gradient_and_the_rest_the_same_ones():
    layer, x = layer_of("separable")
    layer.weight.requires_grad_(False)
    (expected,) = torch.autograd.grad(layer(x).sum(), [layer.pointwise_weight])
    accelerate(layer)
    y = layer(x.detach())
    torch.testing.assert_close(torch.autograd.grad(y.sum(), [layer.pointwise_weight])[0], expected)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not layer(x.detach()).requires_grad
    assert layer(x).requires_grad


# The same model


def test_parameters_names_and_hooks_stay_and_undo_brings_the_classes_back():
    model = small_network()
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    state, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model]
    calls = []
    model[4].register_forward_hook(lambda *_: calls.append(1))
    report = accelerate(model)
    assert [row.name for row in report.rows] == ["0", "4", "7"]
    assert not report.refused
    assert "fourier, 4 convolutions for 9" in str(report)
    assert "fourier, 4 convolutions for 9" in str(model)
    assert before == {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    assert same_state(model.state_dict(), state)
    assert [m.__class__ for m in model] == classes
    assert all(isinstance(m, cls) for m, cls in zip(model, classes, strict=True))
    model(torch.randn(1, 3, 16, 16))
    assert calls == [1]
    accelerate(model)
    accelerate(model, undo=True)
    assert [type(m) for m in model] == classes


def test_training_goes_on_as_it_did_with_the_optimizer_from_before():
    published, x = small_network().train(), torch.randn(4, 3, 16, 16)
    fast = copy.deepcopy(published)
    expected = steps(published, x, 6)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(6):
        if step == 2:
            accelerate(fast)
        if step == 4:
            again = small_network().train()
            again.load_state_dict(fast.state_dict())
            state = optimizer.state_dict()
            accelerate(again)
            fast, optimizer = again, torch.optim.SGD(again.parameters(), lr=0.05, momentum=0.9)
            optimizer.load_state_dict(state)
        loss = F.cross_entropy(fast(x), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)


def test_copies_compute_alike():
    model, x = small_network(), torch.randn(1, 3, 16, 16)
    accelerate(model)
    copied = copy.deepcopy(model)
    assert [form_of(m) for m in copied] == [form_of(m) for m in model]
    before = model(x)
    assert torch.equal(copied(x), before)
    nn.init.zeros_(copied[0].weight)
    assert torch.equal(model(x), before)
    assert not torch.equal(copied(x), before)
    torch.testing.assert_close(copy.copy(model[0])(x), model[0](x))


def test_a_pickle_has_the_published_class_and_loads_without_this(tmp_path):
    model, x = small_network(), torch.randn(1, 3, 16, 16)
    plain = pickle.dumps(model)
    accelerate(model)
    model(x)
    assert pickle.dumps(model) == plain
    torch.save(model, tmp_path / "model.pt")
    for loaded in (pickle.loads(pickle.dumps(model)), load(tmp_path / "model.pt")):
        assert [type(m) for m in loaded] == [m.__class__ for m in model]
        assert same_state(loaded.state_dict(), model.state_dict())
        assert accelerate(loaded).rows == accelerate(model).rows
        assert torch.equal(loaded(x), model(x))


def test_the_converter_takes_accelerated_models():
    model = small_network()
    rows, converted = plan(model).rows, convert(model)
    accelerate(model)
    assert [vars(row) for row in plan(model).rows] == [vars(row) for row in rows]
    again = convert(model)
    assert same_state(again.state_dict(), converted.state_dict())
    assert [type(m) for m in again] == [type(m) for m in converted]
    assert verify(model, again, input_shape=(3, 16, 16)).passed


def test_layers_of_a_stranger_are_taken_and_refused_ones_left():
    model = foreign.Network()
    model.gated = foreign.Gated(3, 3, 4, 4, 3)
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    report = accelerate(model)
    assert [row.name for row in report.refused] == ["gated"]
    assert "gated by the input" in str(report)
    assert type(model.gated) is foreign.Gated
    assert [form_of(m) for m in (model.conv1, model.conv2)] == ["direct", "fourier"]
    assert model.conv1.__class__ is foreign.CEConv2D
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.double()(x.double()).float(), expected)


# In every way that models are trained


def test_eval_mode_keeps_the_weight_until_a_parameter_changes(monkeypatch):
    layer, x = layer_of("separable", torch.float32)
    accelerate(layer.eval())
    made = []
    compute = type(layer)._compute_weight
    monkeypatch.setattr(type(layer), "_compute_weight", lambda self: made.append(1) or compute(self))
    x.requires_grad_(False)

    def check(times):
        made.clear()
        with torch.no_grad():
            found = [layer(x), layer(x)][-1]
        with torch.inference_mode():
            layer(x)
        assert len(made) == times
        set_form(twin := copy.deepcopy(layer), None)
        torch.testing.assert_close(found, twin(x))

    check(1)
    check(0)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0, 0] += 1
    check(1)
    layer.pointwise_weight.data.mul_(0.9)  # no version counts this
    check(1)
    layer.weight = nn.Parameter(layer.weight.detach() * 2)
    check(1)
    layer.load_state_dict(layer_of("separable", torch.float32)[0].state_dict())
    check(1)
    layer.double().float()
    check(1)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.train()
    check(3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model, x = small_network(3, width=8).train(), torch.randn(4, 3, 32, 32)
    exact = gradients(copy.deepcopy(model).double(), x.double())

    def in_half(model):
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            y = model(x)
            loss = y.float().square().mean()
        scaler.scale(loss).backward()
        scale = scaler.get_scale() if scaler.is_enabled() else 1
        return torch.cat([p.grad.flatten().double() / scale for p in model.parameters() if p.requires_grad])

    own = (in_half(model) - exact).norm()
    accelerate(model)
    assert model[4](torch.randn(1, 8, 3, 5, 5)).dtype == torch.float32
    with torch.autocast("cpu", dtype):
        assert model[4](torch.randn(1, 8, 3, 5, 5)).dtype == dtype
    assert (in_half(model) - exact).norm() <= 4 * own  # the products are larger than what they sum up to


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype):
    for golden in golden_layers()[::6]:
        layer = golden.layer(dtype)
        accelerate(layer)
        output = layer(golden.input.to(dtype))
        assert output.dtype == dtype
        assert relative(output, golden.output_float64) <= 16 * torch.finfo(dtype).eps


def test_channels_last_and_gradient_checkpointing_and_layers_used_twice():
    twice = CEConv2d(3, 3, 3, 3, 3, padding=1).double()
    features = torch.randn(2, 3, 3, 6, 6, dtype=torch.float64, requires_grad=True)

    def found(model, features):
        y = torch.utils.checkpoint.checkpoint(lambda f: model(model(f)), features, use_reentrant=False)
        return torch.autograd.grad(y.square().sum(), [features, *model.parameters()])

    expected = found(twice, features)
    accelerate(twice)
    for each, exact in zip(found(twice, features), expected, strict=True):
        torch.testing.assert_close(each, exact)
    y = twice(features)
    for moved in (features.to(memory_format=torch.channels_last_3d), features.mT.contiguous().mT):
        assert torch.allclose(twice(moved), y)
        assert twice(moved).is_contiguous()
    assert torch.allclose(twice(features.flatten(1, 2)), y)
    twice.weight.data = twice.weight.detach().to(memory_format=torch.channels_last_3d)
    assert torch.allclose(twice(features), y)


def test_torch_func():
    layer, x = layer_of("separable")
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    models = [{name: p * (i + 1) for name, p in parameters.items()} for i in range(3)]
    stacked = {name: torch.stack([m[name] for m in models]) for name in parameters}

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, x).square().mean()

    def per_sample(parameters, x):
        samples = x.detach().unsqueeze(1)
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, samples)

    def ensemble(x):
        return torch.func.vmap(loss, in_dims=(0, None))(stacked, x.detach())

    expected = per_sample(parameters, x), ensemble(x)
    accelerate(layer)
    torch.testing.assert_close((per_sample(parameters, x), ensemble(x)), expected)


def test_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(CEConv2d(3, 3, 4, 4, 3), CEConv2d(1, 3, 3, 4, 3))
    report = accelerate(model)
    assert model[0](torch.empty(2, 4, 3, 7, 7, device="meta")).shape == (2, 4, 3, 5, 5)
    assert [row.name for row in report.refused] == ["1"]
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert not accelerate(model).refused


def test_parametrizations_before_and_after():
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    layer, x = layer_of("hidden")
    y = layer(x) - layer.bias.view(-1, 1, 1, 1)
    parametrize.register_parametrization(layer, "weight", Double())
    accelerate(layer)
    assert form_of(layer) == form_of(copy.deepcopy(layer)) == "fourier"
    torch.testing.assert_close(layer(x) - layer.bias.view(-1, 1, 1, 1), 2 * y)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is CEConv2d
    accelerate(layer)
    parametrize.register_parametrization(layer, "weight", Double())
    torch.testing.assert_close(layer(x) - layer.bias.view(-1, 1, 1, 1), 4 * y)
    accelerate(layer)
    torch.testing.assert_close(layer(x) - layer.bias.view(-1, 1, 1, 1), 4 * y)


# What cannot be accelerated


def test_a_model_without_layers_is_an_error():
    with pytest.raises(NothingToConvertError, match="has no CEConv2d layer"):
        accelerate(nn.Sequential(nn.Conv2d(3, 3, 3)))
    with pytest.raises(NothingToConvertError, match="has no CEConv2d layer"):
        accelerate(convert(small_network()))


def test_a_layer_that_cannot_work_is_an_error_and_the_model_as_it_was():
    model = small_network()
    model[7].weight = nn.Parameter(torch.zeros(5, 5, 2, 3, 3))
    with pytest.raises(SpecError, match="7 cannot be accelerated: its weight has shape"):
        accelerate(model)
    assert {type(m) for m in (model[0], model[4], model[7])} == {CEConv2d}
    model = small_network()
    model[4].pointwise_weight = nn.Parameter(model[4].pointwise_weight.to("meta"))
    with pytest.raises(SpecError, match="4 has parameters on cpu and meta: move it to one device first"):
        accelerate(model)
    assert type(model[0]) is CEConv2d


def test_an_example_that_does_not_fit_is_an_error_and_the_model_as_it_was():
    model = small_network()
    with pytest.raises(InputShapeError, match="the model does not run on the example: "):
        accelerate(model, tune=torch.randn(1, 5, 16, 16))
    assert type(model[4]) is CEConv2d
    with pytest.raises(SpecError, match="undo=True"):
        accelerate(model, tune=torch.randn(1, 3, 16, 16), undo=True)


# Which form


def test_forms_follow_from_shapes(monkeypatch):
    monkeypatch.undo()
    layers = {
        "direct": [(1, 3, 3, 64, 3), (3, 3, 17, 17, 3), (3, 3, 64, 64, 1), (3, 4, 64, 64, 3)],
        "fourier": [(3, 3, 27, 27, 3), (6, 6, 20, 20, 3), (10, 10, 10, 10, 3)],
    }
    for form, arguments in layers.items():
        for each in arguments:
            layer = CEConv2d(*each)
            accelerate(layer)
            assert form_of(layer) == form


@pytest.mark.parametrize("fastest", [None, "direct", "fourier"])
def test_tuning_takes_what_is_fastest(monkeypatch, fastest):
    timed = []

    def seconds(layer, x):
        timed.append((form_of(layer), x.shape))
        return 1.0 if form_of(layer) == fastest else 2.0

    monkeypatch.setattr(tune, "_seconds_of_a_step", seconds)
    model = nn.Sequential(small_network(), small_network(seed=1)[1:7])[0]
    state = copy.deepcopy(model.state_dict())
    report = accelerate(model.train(), tune=torch.randn(2, 3, 16, 16))
    assert [form_of(model[i]) for i in (4, 7)] == [fastest, fastest]
    assert {shape for _, shape in timed} == {(2, 3, 16, 16), (2, 5, 3, 8, 8)}
    assert same_state(model.state_dict(), state)
    assert ("as published" in str(report)) == (fastest is None or fastest == "fourier")


def test_tuning_measures():
    model = small_network()
    random = torch.get_rng_state()
    accelerate(model, tune=(torch.randn(1, 3, 16, 16, generator=torch.Generator()),))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow  # torch exports a network
def test_accelerated_models_are_written_as_any_others(tmp_path):
    plain = shake(ResNet(BasicBlock, [1, 1, 1], [6, 8, 8], 10, 3, True, False, True)).eval()
    model = copy.deepcopy(plain)
    accelerate(model)
    torch.save(model, tmp_path / "whole.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "a.ckpt")
    assert export_onnx(model, tmp_path / "a.onnx", input_shape=(3, 16, 16)).passed
    assert verify(plain, tmp_path / "a.onnx", input_shape=(3, 16, 16)).passed
    migrate_checkpoint(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    migrated = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert migrated["epoch"] == 3
    assert same_state(migrated["state_dict"], convert(plain).state_dict())
    assert verify(plain, convert(load(tmp_path / "whole.pt")), input_shape=(3, 16, 16)).passed
