"""convert and plan: what is kept, what is refused, and that the source is untouched."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ceconv_convert import CEConv2d, ConversionError, convert, migrate_state_dict, plan, verify
from ceconv_convert.architectures.resnet import Bottleneck, ResNet
from ceconv_convert.errors import NothingToConvertError, RefusedLayerError, SpecError
from ceconv_convert.forms.table import FORMS
from ceconv_convert.forms.target import TargetLayer
from tests import foreign
from tests.support import relative, same_state, small_network

EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def agree(left, right, x, bound=1e-12):
    return relative(left(x), right(x)) <= bound


@EVERY_FORM
@pytest.mark.parametrize("rotations", [2, 3, 4, 6])
def test_a_network_computes_the_same(form, rotations):
    model = small_network(rotations).double()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model, form)
    assert agree(model, converted, torch.randn(2, 3, 17, 20, dtype=torch.float64))
    assert same_state(model.state_dict(), before)
    assert sum(isinstance(module, TargetLayer) for module in converted.modules()) == 3
    assert not any(isinstance(module, CEConv2d) for module in converted.modules())


def test_the_source_shares_nothing_with_the_result():
    model = small_network()
    converted = convert(model)
    sources = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert not sources & {t.untyped_storage().data_ptr() for t in converted.state_dict().values()}


@EVERY_FORM
def test_a_strangers_network_converts(form):
    torch.manual_seed(0)
    model = foreign.Network().eval()
    assert agree(model, convert(model, form), torch.randn(2, 3, 9, 9), bound=1e-5)


@EVERY_FORM
def test_the_root_may_be_a_layer(form):
    layer = CEConv2d(1, 3, 3, 4, 3).double()
    for inplace in (False, True):
        converted = convert(copy.deepcopy(layer), form, inplace=inplace)
        assert isinstance(converted, TargetLayer)
        assert agree(layer, converted, torch.randn(1, 3, 6, 6, dtype=torch.float64))


@EVERY_FORM
def test_attribute_names_stay(form):
    converted = convert(foreign.Network(), form)
    assert isinstance(converted.conv1, TargetLayer)
    assert {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"} <= set(converted.state_dict())


@EVERY_FORM
def test_one_module_in_two_places_stays_one(form):
    torch.manual_seed(0)
    shared = CEConv2d(3, 3, 2, 2, 3, padding=1)
    parent = nn.Sequential(shared, nn.ReLU())
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), parent, shared, parent).double()
    converted = convert(model, form)
    assert converted[1][0] is converted[2]
    assert converted[1] is converted[3]
    assert agree(model, converted, torch.randn(1, 3, 8, 8, dtype=torch.float64))


@EVERY_FORM
def test_parameters_tied_between_layers_stay_tied(form):
    first, second = (CEConv2d(3, 3, 2, 2, 3, padding=1, separable=False) for _ in range(2))
    second.weight, second.bias = first.weight, first.bias
    converted = convert(nn.Sequential(first, second), form)
    assert converted[0].weight is converted[1].weight
    assert converted[0].bias is converted[1].bias
    untied = convert(nn.Sequential(CEConv2d(3, 3, 2, 2, 3), CEConv2d(3, 3, 2, 2, 3)), form)
    assert untied[0].weight is not untied[1].weight


def test_a_bias_tied_to_another_module_stays_tied():
    model = nn.Sequential(CEConv2d(3, 3, 2, 2, 3), nn.BatchNorm3d(2))
    model[1].bias = model[0].bias
    converted = convert(model)
    assert converted[0].bias is converted[1].bias


@EVERY_FORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(form, dtype):
    model = small_network().to(dtype)
    converted = convert(model, form)
    assert {t.dtype for t in converted.state_dict().values() if t.is_floating_point()} == {dtype}
    x = torch.randn(1, 3, 16, 16).to(dtype)
    assert converted(x).dtype == dtype


@EVERY_FORM
def test_device_is_kept(form):
    """``meta`` stands for any other device; a lifting layer's matrix has to be looked at."""
    layer = CEConv2d(3, 3, 2, 2, 3, device="meta")
    assert {p.device.type for p in convert(layer, form).parameters()} == {"meta"}


@EVERY_FORM
def test_requires_grad_is_kept(form):
    model = nn.Sequential(
        *(CEConv2d(3, 3, 2, 2, 3, separable=separable) for separable in (True, False, True))
    )
    model[1].weight.requires_grad_(False)
    model[2].requires_grad_(False)
    with torch.no_grad():  # the caller's grad mode makes no difference
        converted = convert(model, form)
    assert [layer.weight.requires_grad for layer in converted] == [True, False, False]
    assert [layer.bias.requires_grad for layer in converted] == [True, True, False]
    assert all(parameter.is_leaf for parameter in converted.parameters())


@EVERY_FORM
def test_mode_is_kept_module_by_module(form):
    model = small_network().train()
    model[4].eval()
    converted = convert(model, form)
    assert [module.training for module in converted] == [module.training for module in model]


def test_hooks_are_kept_on_layers_and_elsewhere():
    model = small_network()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("layer"))
    model[2].register_forward_hook(lambda *_: calls.append("relu"))
    model[7].register_forward_pre_hook(lambda *_: calls.append("before"))
    convert(model)(torch.randn(1, 3, 16, 16))
    assert calls == ["layer", "relu", "before"]


@EVERY_FORM
def test_parametrized_layers_become_what_they_act_as(form):
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.spectral_norm(CEConv2d(3, 3, 2, 2, 3), "weight")).double().eval()
    converted = convert(model, form)
    assert sorted(converted.state_dict()) == ["0.bias", "0.weight"]
    assert agree(model, converted, torch.randn(1, 2, 3, 6, 6, dtype=torch.float64))


def test_inplace_changes_the_model_itself():
    model = small_network()
    x = torch.randn(1, 3, 16, 16)
    expected = model(x)
    assert convert(model, inplace=True) is model
    assert isinstance(model[0], TargetLayer)
    assert relative(model(x), expected) < 1e-5


def test_wrapped_models_convert_inside():
    model = nn.DataParallel(small_network())
    assert isinstance(convert(model).module[0], TargetLayer)


@EVERY_FORM
def test_gradients_reach_the_converted_weights(form):
    converted = convert(small_network(), form)
    converted(torch.randn(1, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in converted.parameters() if p.requires_grad)


def test_a_converted_network_learns_as_the_original_does():
    """The gradient of a rolled weight is the rolled gradient."""
    torch.manual_seed(0)
    layer = CEConv2d(3, 3, 2, 2, 3, separable=False).double()
    converted = convert(layer)
    x = torch.randn(1, 2, 3, 6, 6, dtype=torch.float64)
    for each in (layer, converted):
        each(x).square().sum().backward()
    assert torch.allclose(converted.weight.grad, layer.weight.grad.roll(1, 2))


def test_converting_twice_says_that_nothing_is_left():
    with pytest.raises(NothingToConvertError, match="nothing is left to convert: all 3 layers are converted"):
        convert(convert(small_network()))
    with pytest.raises(NothingToConvertError, match="its layer is converted already"):
        convert(convert(CEConv2d(1, 3, 3, 2, 3)), "conv2d")


def test_a_model_without_layers():
    with pytest.raises(NothingToConvertError, match="no CEConv2d layer"):
        convert(nn.Sequential(nn.Conv2d(3, 2, 3)))


def test_refusals_stop_a_strict_conversion_and_leave_the_model():
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), foreign.Gated(3, 3, 2, 2, 3))
    before = list(model)
    with pytest.raises(RefusedLayerError, match="1 of 2 layers cannot be converted exactly: 1: .*gated"):
        convert(model, inplace=True)
    assert list(model) == before
    converted = convert(model, strict=False)
    assert isinstance(converted[0], TargetLayer)
    assert isinstance(converted[1], foreign.Gated)
    assert "gated by the input" in str(plan(converted))


def test_a_model_that_cannot_be_copied():
    model = small_network()
    model.lock = threading.Lock()
    with pytest.raises(ConversionError, match="inplace=True"):
        convert(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_pruned_and_legacy_normed_modules_beside_the_layers_are_copied():
    """They hold computed tensors, which torch alone refuses to copy."""
    model = small_network()
    prune.l1_unstructured(model[-1], "weight", amount=0.3)
    model.append(nn.utils.weight_norm(nn.Linear(4, 4)))
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    assert relative(convert(model)(x), expected) < 1e-5
    assert verify(model, convert(model)).passed


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("attach", "advice"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3), "prune.remove"),
        (nn.utils.weight_norm, "remove_weight_norm"),
    ],
)
def test_pruned_and_legacy_normed_layers_say_what_to_do(attach, advice):
    model = small_network()
    attach(model[4])
    with pytest.raises(RefusedLayerError, match=advice):
        convert(model)


def test_a_layer_compiled_by_itself_says_what_to_do():
    model = small_network()
    model[4] = torch.compile(model[4], backend="eager")
    with pytest.raises(RefusedLayerError, match="convert first, and compile afterwards"):
        convert(model)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.10's own, where it compiles
def test_a_compiled_network_converts_inside():
    model = small_network()
    compiled = torch.compile(model, backend="eager")
    converted = convert(compiled)
    with torch.no_grad():
        converted._orig_mod[-1].bias += 1
        converted._orig_mod[4].weight.zero_()
    x = torch.randn(1, 3, 16, 16)
    assert not torch.allclose(converted(x), model(x) + 1, atol=1e-4)


def test_lifting_layers_without_numbers_are_refused():
    with pytest.raises(RefusedLayerError, match="meta device"):
        convert(small_network().to("meta"))


def test_unknown_forms():
    with pytest.raises(SpecError, match="found 'fft'"):
        convert(small_network(), "fft")
    with pytest.raises(SpecError, match="found 'fft'"):
        plan(small_network(), "fft")


def test_random_state_is_left_alone():
    model = foreign.Network()
    state = torch.get_rng_state()
    convert(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_the_layers():
    seen = []
    convert(small_network(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@EVERY_FORM
def test_plan_has_a_row_for_each_layer_with_true_sizes(form):
    model = small_network(rotations=4)
    model.append(model[4])
    rows = plan(model, form)
    converted = convert(model, form)
    assert [row.kind for row in rows] == ["lifting", "separable", "hidden"]
    assert [row.name for row in rows] == ["0", "4", "7"]
    assert rows.rows[1].aliases == ("12",)
    for row in rows:
        size = sum(
            p.numel() * p.element_size() for p in converted.get_submodule(row.name).state_dict().values()
        )
        assert row.bytes_after == size
        assert row.bytes_before == sum(
            p.numel() * p.element_size() for p in model.get_submodule(row.name).parameters()
        )
    assert rows.rows[2].rotations == (4, 4)
    assert rows.rows[2].stride == (2, 2)


def test_plan_prints():
    text = str(
        plan(nn.Sequential(CEConv2d(1, 3, 3, 2, (3, 5), padding="same"), CEConv2d(3, 3, 2, 2, 3, stride=2)))
    )
    assert text.splitlines()[0].split() == (
        ["layer", "kind", "N", "channels", "kernel", "form", "before", "after"]
    )
    assert text.splitlines()[1].split()[:8] == ["0", "lifting", "1→3", "3→2", "3×5", "p1×2", "conv3d", "404"]
    assert text.splitlines()[2].split()[:7] == ["1", "separable", "3→3", "2→2", "3×3", "s2", "conv3d"]
    assert "2 layers to conv3d" in text


def test_a_plan_of_many_layers_folds_those_that_are_alike():
    model = ResNet(Bottleneck, [3, 8, 36, 3], [16, 32, 64, 128], 10, 3, True, separable=True)
    found = plan(model)
    lines = found.table()
    assert len(found) == 155
    assert len(lines) == 25
    assert max(map(len, lines)) <= 80
    assert found.table()[-7].split()[0] == "layers.2.1…35.conv2"
    few = nn.Sequential(*(CEConv2d(3, 3, 2, 2 + (i == 20), 3) for i in range(41)))
    assert [row.name for row in plan(few).folded()] == ["0…40 ×40", "20"]


def trainable_lifting(rotations=3, matrix=None):
    torch.manual_seed(0)
    layer = CEConv2d(1, rotations, 3, 4, 3)
    if matrix is not None:
        layer.transformation_matrix.data = matrix
    layer.transformation_matrix.requires_grad_(True)
    return layer


@pytest.mark.parametrize("matrix", [None, torch.eye(3)], ids=["color cycle", "identity"])
def test_a_trainable_matrix_goes_on_learning(matrix):
    layer = trainable_lifting(matrix=matrix)
    converted = convert(layer)
    x = torch.randn(2, 3, 7, 8)
    for module in (layer, converted):
        module(x).square().sum().backward()
    expected = layer.transformation_matrix.grad
    assert expected.abs().max() > 0
    torch.testing.assert_close(converted.transformation_matrix.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("matrix", [None, torch.eye(3)], ids=["color cycle", "identity"])
def test_the_matrix_alone_decides_how_a_state_dict_is_laid_out(matrix):
    layer = trainable_lifting(matrix=matrix)
    migrated = migrate_state_dict(layer.state_dict())
    stack = convert(layer)
    assert same_state(stack.state_dict(), migrated)
    frozen = trainable_lifting(matrix=matrix).requires_grad_(False)
    assert same_state(convert(frozen).state_dict(), migrated)
    other = convert(trainable_lifting(matrix=torch.randn(3, 3)))
    for target in (stack, convert(frozen), other):
        target.load_state_dict(migrated, strict=True)
        assert agree(target, layer, torch.randn(2, 3, 7, 8), bound=1e-6)


@pytest.mark.parametrize("matrix", [None, torch.eye(3)], ids=["color cycle", "identity"])
def test_a_circular_lifting_layer_takes_no_other_matrix(matrix):
    converted = convert(trainable_lifting(matrix=matrix).requires_grad_(False))
    state = migrate_state_dict(trainable_lifting(matrix=torch.randn(3, 3)).state_dict())
    with pytest.raises(RuntimeError, match="transformation_matrix is not the color permutation"):
        converted.load_state_dict(state)


@EVERY_FORM
@pytest.mark.parametrize("separable", [False, True])
def test_planes_are_features(form, separable):
    """The published layer views its input: what lies in memory alike is the same to it."""
    torch.manual_seed(0)
    hidden = CEConv2d(4, 4, 2, 3, 3, separable=separable).double()
    x = torch.randn(2, 2, 4, 7, 8, dtype=torch.float64)
    for shape in ((2, 8, 7, 8), (2, 4, 2, 7, 8), (2, 2, 4, 7, 8)):
        assert agree(convert(hidden, form), hidden, x.reshape(shape))


@EVERY_FORM
@pytest.mark.parametrize("rotations", [3, 4])
def test_colors_may_come_with_a_rotation_axis(form, rotations):
    torch.manual_seed(0)
    lifting = CEConv2d(1, rotations, 3, 3, 3).double()
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    for shape in ((2, 3, 7, 8), (2, 3, 1, 7, 8), (2, 1, 3, 7, 8)):
        assert agree(convert(lifting, form), lifting, x.reshape(shape))


class FlattenedFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.lifting = CEConv2d(1, 3, 3, 2, 3)
        self.hidden = CEConv2d(3, 3, 2, 4, 3)

    def forward(self, x):
        return self.hidden(self.lifting(x[:, None]).flatten(1, 2))


@EVERY_FORM
def test_a_network_that_flattens_its_features_passes(form):
    model = FlattenedFeatures()
    assert verify(model, convert(model, form)).passed


def test_layers_of_one_weight_stay_so_beside_matrices_of_their_own():
    first, second = CEConv2d(1, 3, 3, 4, 3), CEConv2d(1, 3, 3, 4, 3)
    second.weight, second.bias = first.weight, first.bias
    narrow, wide = CEConv2d(3, 3, 4, 4, 3, separable=False), CEConv2d(3, 5, 4, 4, 3, separable=False)
    wide.weight = narrow.weight
    model = nn.ModuleList([first, second, narrow, wide])
    converted = convert(model)
    assert converted[0].weight is converted[1].weight
    assert converted[0].bias is converted[1].bias
    assert converted[2].weight is converted[3].weight
    assert converted[2].bias is not converted[3].bias
    migrated = migrate_state_dict(model.state_dict())
    assert migrated["0.weight"] is migrated["1.weight"]
    assert migrated["2.weight"] is migrated["3.weight"]


def test_trainable_matrices_of_one_weight_part_its_expansions():
    first, second = trainable_lifting(), trainable_lifting()
    second.weight = first.weight
    converted = convert(nn.ModuleList([first, second]), "conv2d")
    assert converted[0].weight is not converted[1].weight


def test_a_block_with_rotations_of_its_own_is_no_layer():
    model = foreign.Block(CEConv2d(3, 3, 2, 4, 3))
    assert [row.name for row in plan(model)] == ["body.0"]
    assert plan(convert(model)).converted == 1
    assert agree(convert(model), model, torch.randn(2, 2, 3, 7, 8), bound=1e-6)


@EVERY_FORM
@pytest.mark.parametrize("layer", [CEConv2d(1, 3, 3, 4, 3), CEConv2d(1, 4, 3, 4, 3), CEConv2d(3, 5, 2, 4, 3)])
def test_who_asks_a_layer_for_its_channels_gets_the_same_answer(form, layer):
    converted = convert(layer, form)
    for name in ("in_channels", "out_channels", "in_rotations", "out_rotations"):
        assert getattr(converted, name) == getattr(layer, name)


def test_a_model_that_cannot_be_copied_is_one_sentence():
    model = nn.Sequential(CEConv2d(1, 3, 3, 4, 3), foreign.Uncopyable())
    with pytest.raises(ConversionError, match="the model cannot be copied .one of a kind.: convert"):
        convert(model)
    assert len(plan(convert(model, inplace=True))) == 0


def test_a_default_dtype_of_float64_changes_nothing():
    torch.manual_seed(0)
    model = foreign.Network()
    torch.set_default_dtype(torch.float64)
    try:
        assert not plan(model).refused
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_state_dict_of_a_trainable_matrix_is_the_layers_own():
    """As long as the matrix has the order that it had: averages and functional calls rely on it."""
    converted = convert(trainable_lifting())
    x = torch.randn(2, 3, 7, 8)
    state = converted.state_dict()
    assert torch.equal(torch.func.functional_call(converted, state, x), converted(x))
    state["weight"].zero_()
    assert not converted.weight.any()
    del state["transformation_matrix"]
    converted.load_state_dict(convert(trainable_lifting()).state_dict(), strict=False)
    assert agree(converted, trainable_lifting(), x, bound=1e-6)


def test_a_matrix_that_learns_its_way_out_of_the_cycle():
    layer, fresh = trainable_lifting(), trainable_lifting(matrix=torch.randn(3, 3))
    learned = convert(layer)
    with torch.no_grad():
        for module in (layer, learned):
            module.transformation_matrix.add_(torch.linspace(0, 0.1, 9).view(3, 3))
    assert same_state(learned.state_dict(), migrate_state_dict(layer.state_dict()))
    for target in (convert(trainable_lifting()), convert(fresh)):
        target.load_state_dict(learned.state_dict())
        assert agree(target, layer, torch.randn(2, 3, 7, 8), bound=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_casting_a_converted_layer_or_its_state_dict_changes_no_layout(frozen, noise):
    layer = trainable_lifting().requires_grad_(not frozen)
    with torch.no_grad():
        layer.transformation_matrix.add_(noise)
    x = torch.randn(2, 3, 7, 8)
    for source in (convert(layer), convert(layer).double(), convert(layer.double()).float()):
        for target in (convert(layer.float()), convert(layer.float()).double(), convert(layer.double())):
            dtype = target.weight.dtype
            target.load_state_dict({name: tensor.to(dtype) for name, tensor in source.state_dict().items()})
            assert relative(target(x.to(dtype)), layer.double()(x.double())) < 1e-6


@pytest.mark.parametrize("learnable", [True, False])
def test_a_converted_layer_on_the_meta_device_has_a_state_dict(learnable):
    layer = trainable_lifting().requires_grad_(learnable)
    assert list(convert(layer).to("meta").state_dict()) == ["weight", "bias", "transformation_matrix"]


def test_lifting_layers_of_one_weight_and_matrices_that_learn_apart():
    first, second = trainable_lifting(), trainable_lifting()
    second.weight = first.weight
    converted = convert(nn.ModuleList([first, second]))
    assert converted[0].weight is converted[1].weight
    assert converted[0].transformation_matrix is not converted[1].transformation_matrix


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_network_takes_a_state_dict_on_the_meta_device(form):
    """As loaders do that first lay out a network, and give it its numbers afterwards."""
    converted = convert(small_network(), form)
    state = converted.state_dict()
    empty = convert(small_network(), form).to("meta")
    assert not empty.load_state_dict(empty.state_dict(), assign=True).missing_keys
    empty.load_state_dict({name: tensor.to("meta") for name, tensor in state.items()}, assign=True)
    empty.load_state_dict(state, assign=True)
    assert same_state(empty.state_dict(), state)
