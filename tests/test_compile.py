"""The graph compiler: what its passes do, how often, and that what is written computes the same."""

import collections
import os
from itertools import product

import onnx
import onnx_ir as ir
import openvino
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, GroupMaxPool2d, convert, export_onnx
from ceconv_convert.architectures.cecnn import CECNN
from ceconv_convert.architectures.resnet import BasicBlock, Bottleneck, HybridResNet, ResNet
from ceconv_convert.errors import ExportError
from ceconv_convert.onnx import compile as compiling
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.passes.choose import choices_as_lines
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.onnx.runtime import OnnxRunner
from tests.random_networks import Gate, Residual, Roll, Scale, random_network
from tests.support import shake, small_network

FORMS, PROCESSORS = ("auto", "fourier"), ("avx2", "avx512")
EPS = torch.finfo(torch.float32).eps

NETWORKS = {
    "small": (small_network, (3, 32, 32)),
    "even": (lambda: small_network(rotations=6), (3, 32, 32)),
    "pairs": (lambda: ResNet(BasicBlock, [1, 1, 1], [9, 20, 24], 4, 10, True), (3, 32, 32)),
    "basic": (lambda: ResNet(BasicBlock, [1, 2, 1], [5, 6, 7], 4, 3, True, separable=True), (3, 32, 32)),
    "large": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], [17, 8, 9, 24], 4, 3, True), (3, 64, 64)),
    "bottleneck": (lambda: ResNet(Bottleneck, [1, 1, 1], [4, 4, 4], 4, 4, False), (3, 32, 32)),
    "hybrid": (lambda: HybridResNet(BasicBlock, [1, 1, 1], [5, 6, 7], 2, 4, 3), (3, 32, 32)),
    "cnn": (lambda: CECNN(4, 3, 7, True), (3, 28, 28)),
    "flat features into plain layers": (lambda: CECNN(5, 4, 3, False), (3, 28, 28)),
}


def written(path, model, *, form="auto", shape=(3, 32, 32), processor=None, **arguments):
    return write_onnx(
        exportable(model, form),
        path,
        torch.randn(2, *shape),
        form=form,
        costs=cost_model(processor),
        **arguments,
    )


def counts(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def in_openvino(path):
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.as_tensor(compiled([x.numpy()])[0])


def in_the_reference(path):
    return lambda x: torch.as_tensor(ReferenceEvaluator(str(path)).run(None, {"input": x.numpy()})[0])


def in_onnx_runtime(path):
    run = OnnxRunner(path)
    return lambda x: run(x)[0]


def check_exact(model, run, x, roundings=17):
    """Four times the original's own distance from its float64 self, and roundings of the largest number."""
    with torch.no_grad():
        own = model(x)
        truth = model.double()(x.double())
        model.float()
    found, scale = run(x), truth.abs().max()
    assert found.shape == truth.shape
    error = (found - truth).abs().max()
    assert error <= 4 * (own - truth).abs().max() + roundings * EPS * scale


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_networks_everywhere(tmp_path, build, shape):
    torch.manual_seed(0)
    model, path = shake(build()).eval(), tmp_path / "a.onnx"
    for form, processor in product(FORMS, PROCESSORS):
        made = written(path, model, form=form, shape=shape, processor=processor)
        onnx.checker.check_model(str(path), full_check=True)
        assert {entry.domain for entry in onnx.load(path).opset_import} == {""}
        x = torch.randn(2, *shape)
        check_exact(model, in_onnx_runtime(path), x)
        check_exact(model, in_openvino(path), x, roundings=64)
        if processor == PROCESSORS[0]:
            check_exact(model, in_the_reference(path), x, roundings=64)
        if "size" not in made.fixed and not isinstance(model, CECNN):
            check_exact(model, in_onnx_runtime(path), torch.randn(3, 3, shape[1] + 5, shape[2] - 3))


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "12"))))
def test_random_networks(tmp_path, seed):
    """The environment variable SEEDS says how many."""
    path = tmp_path / "a.onnx"
    for form in FORMS:
        model = random_network(seed)
        made = written(path, model, form=form, shape=(3, 28, 32), processor=PROCESSORS[seed % 2])
        onnx.checker.check_model(str(path), full_check=True)
        run = in_onnx_runtime(path)
        check_exact(model, run, torch.randn(1, 3, 28, 32))
        if "size" not in made.fixed:
            check_exact(model, run, torch.randn(3, 3, 25, 31))
    check_exact(model, in_openvino(path), torch.randn(2, 3, 28, 32), roundings=64)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "slices"), [(24, 0), (20, 1)], ids=["aligned", "padded"])
def test_what_is_left_of_a_resnet(tmp_path, channels, slices):
    torch.manual_seed(0)
    model = shake(ResNet(BasicBlock, [1, 1, 1, 1], [17, 8, 9, channels], 4, 3, True)).eval()
    made = written(tmp_path / "a.onnx", model, form="fourier", shape=(3, 64, 64))
    found, fired = counts(tmp_path / "a.onnx"), made.compiled.fired
    layers = sum(isinstance(module, CEConv2d) for module in model.modules())
    norms = sum(isinstance(module, nn.BatchNorm3d) for module in model.modules())
    assert fired["fold_norms"] == norms == layers
    assert found["BatchNormalization"] == found["Transpose"] == 0
    shared = sum(name.endswith("shortcut.0") for name, _ in model.named_modules())
    assert found["Conv"] == 3 * (layers - 1) - shared + 1  # a shortcut takes the transform that is there
    assert found["Slice"] == slices  # off the padding, before the linear layer
    # Rectifiers, additions, pools and the coset maximum are rotation-major; so is the spatial mean.
    relus, blocks = found["Relu"], sum(isinstance(module, BasicBlock) for module in model.modules())
    assert fired["form_regions"] >= relus + blocks + 2


@pytest.mark.slow
def test_channel_padding_is_zero(tmp_path):
    model = shake(small_network()).eval()
    made = written(tmp_path / "a.onnx", model, form="fourier", processor="avx2")
    padded = {choice.layer: choice.channels for choice in made.compiled.choices}
    weights = {
        tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor))
        for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer
    }
    padding = 0
    for name, (_, out) in padded.items():
        layer = model.get_submodule(name)
        weight = weights[f"{name}.weight"].unflatten(0, (-1, out))
        assert not weight[:, layer.out_channels :].any()
        assert weight[:, : layer.out_channels].any()
        padding += out - layer.out_channels
    assert padding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "folded"),
    [
        (lambda c: nn.BatchNorm3d(c), 1),
        (lambda c: nn.Sequential(nn.ReLU(), nn.BatchNorm3d(c)), 0),
        (lambda c: nn.Sequential(nn.BatchNorm3d(c), nn.BatchNorm3d(c)), 2),
        (lambda c: nn.Sequential(nn.Dropout3d(0.5), nn.BatchNorm3d(c)), 1),
    ],
)
def test_which_norms_are_folded(tmp_path, after, folded):
    torch.manual_seed(0)
    model = shake(nn.Sequential(CEConv2d(1, 3, 3, 5, 3), CEConv2d(3, 3, 5, 6, 3), after(6))).eval()
    made = written(tmp_path / "a.onnx", model)
    norms = sum(isinstance(module, nn.BatchNorm3d) for module in model.modules())
    assert made.compiled.fired["fold_norms"] == folded
    assert counts(tmp_path / "a.onnx")["BatchNormalization"] == norms - folded
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), torch.randn(2, 3, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shortcut", "folded"),
    [
        (lambda: CEConv2d(3, 3, 4, 4, 1), 1),
        (lambda: nn.Sequential(CEConv2d(3, 3, 4, 4, 1), nn.BatchNorm3d(4)), 2),
        (nn.Identity, 0),  # the shortcut is no layer's, and its scale would be lost
        (lambda: nn.Sequential(CEConv2d(3, 3, 4, 4, 1), nn.ReLU()), 0),
    ],
)
def test_a_norm_behind_a_residual_addition(tmp_path, shortcut, folded):
    torch.manual_seed(0)
    block = Residual(CEConv2d(3, 3, 4, 4, 3, padding=1), shortcut(), nn.BatchNorm3d(4))
    model = shake(nn.Sequential(CEConv2d(1, 3, 3, 4, 3), nn.ReLU(), block)).eval()
    assert written(tmp_path / "a.onnx", model).compiled.fired["fold_norms"] == folded
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), torch.randn(2, 3, 16, 16))


@pytest.mark.slow
def test_a_norm_of_what_is_taken_twice_stays(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lifting, self.layer = CEConv2d(1, 3, 3, 4, 3), CEConv2d(3, 3, 4, 4, 3)
            self.norm, self.pool = nn.BatchNorm3d(4), GroupCosetMaxPool()

        def forward(self, x):
            y = self.layer(self.lifting(x))
            return self.pool(self.norm(y) * y.sigmoid())

    torch.manual_seed(0)
    model = shake(Twice()).eval()
    assert export_onnx(model, tmp_path / "a.onnx").passed
    assert counts(tmp_path / "a.onnx")["BatchNormalization"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("between", "transposes"),
    [
        (nn.ReLU(), 0),
        (GroupMaxPool2d(2), 0),
        (nn.MaxPool3d((1, 2, 2)), 0),
        (nn.AvgPool3d((1, 2, 2)), 0),
        (nn.MaxPool3d((2, 1, 1), (1, 1, 1)), 2),  # over the rotations
        (nn.GELU(), 0),
        (nn.SiLU(), 0),
        (nn.PReLU(), 0),
        (nn.PReLU(6), 0),
        (nn.BatchNorm3d(6), 0),
        (Gate(), 0),
        (Scale(6), 0),
        (nn.InstanceNorm3d(6), 2),
        (Roll(), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_where_regions_end(tmp_path, between, transposes):
    torch.manual_seed(0)
    rotations = 2 if isinstance(between, nn.MaxPool3d) and between.kernel_size[0] == 2 else 3
    layers = (CEConv2d(1, 3, 3, 6, 3), nn.ReLU(), between, CEConv2d(rotations, rotations, 6, 5, 3))
    model = shake(nn.Sequential(*layers, GroupCosetMaxPool())).eval()
    written(tmp_path / "a.onnx", model)
    assert counts(tmp_path / "a.onnx")["Transpose"] == transposes
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), torch.randn(2, 3, 18, 21))


def test_a_layer_used_twice(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.lifting, self.layer = CEConv2d(1, 3, 3, 4, 3), CEConv2d(3, 3, 4, 4, 3, padding=1)
            self.norm = nn.BatchNorm3d(4)

        def forward(self, x):
            y = self.lifting(x)
            return self.layer(self.norm(self.layer(y)).relu()) + y

    torch.manual_seed(0)
    model = shake(Shared()).eval()
    assert export_onnx(model, tmp_path / "a.onnx").passed


@pytest.mark.slow
@pytest.mark.parametrize("rotations", [3, 4, 6, 10, 12])
def test_lifting_in_every_form_that_is_exact(tmp_path, rotations):
    torch.manual_seed(0)
    model = shake(nn.Sequential(CEConv2d(1, rotations, 3, 8, 5, stride=2, padding=1))).eval()
    made = written(tmp_path / "a.onnx", model, shape=(3, 96, 96))
    (choice,) = made.compiled.choices
    assert ("hue" in choice.costs) == (rotations > 3)
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), torch.randn(2, 3, 47, 52))


def test_a_learned_matrix_is_no_hue(tmp_path):
    torch.manual_seed(0)
    model = shake(nn.Sequential(CEConv2d(1, 6, 3, 8, 5, learnable=True))).eval()
    with torch.no_grad():
        model[0].transformation_matrix.add_(0.1 * torch.randn(3, 3))
    made = written(tmp_path / "a.onnx", model)
    assert [choice.form for choice in made.compiled.choices] == ["conv2d"]
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), torch.randn(2, 3, 17, 15))


@pytest.mark.slow
def test_few_channels_are_expanded_and_many_are_not(tmp_path):
    made = written(tmp_path / "a.onnx", CECNN(17, 3, 7, True).eval(), shape=(3, 28, 28), processor="avx512")
    assert {choice.form for choice in made.compiled.choices} == {"conv2d"}
    lines = choices_as_lines(made.compiled.choices)
    assert lines[0].startswith("7 × conv2d")
    layers = [CEConv2d(3, 3, 64, 64, 3) for _ in range(2)]
    model = nn.Sequential(CEConv2d(1, 3, 3, 64, 3), *layers).eval()
    made = written(tmp_path / "b.onnx", model, shape=(3, 64, 64))
    assert [choice.form for choice in made.compiled.choices] == ["conv2d", "fourier", "fourier"]
    assert "conv2d: 0 (no other form is exact)" in choices_as_lines(made.compiled.choices)


@pytest.mark.parametrize("rotations", [2, 3, 4])
def test_transforms_as_sums_for_openvino(tmp_path, rotations):
    model = shake(
        nn.Sequential(
            CEConv2d(1, rotations, 3, 16, 3),
            nn.ReLU(),
            CEConv2d(rotations, rotations, 16, 24, 3, separable=False),
            nn.ReLU(),
            CEConv2d(rotations, rotations, 24, 24, 3),
        )
    ).eval()
    costs = cost_model("avx512", runtime="openvino")
    path = tmp_path / "a.onnx"
    write_onnx(exportable(model, "fourier"), path, torch.randn(2, 3, 20, 24), form="fourier", costs=costs)
    x = torch.randn(2, 3, 20, 24)
    check_exact(model, lambda x: OnnxRunner(path)(x)[0], x)
    check_exact(model, in_openvino(path), x, roundings=64)
    nodes = onnx.load(path).graph.node
    assert sum(node.op_type == "Split" for node in nodes) == 4
    assert sum(node.op_type == "Conv" for node in nodes) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "channels", "padded", "form"),
    [
        ("avx512", 20, 24, "fourier pairs"),
        ("avx512", 32, 32, "fourier"),
        ("avx2", 20, 20, "fourier pairs"),
        ("avx2", 24, 24, "fourier"),
    ],
)
def test_pairs_where_channel_blocks_would_be_half_full(tmp_path, processor, channels, padded, form):
    torch.manual_seed(0)
    layers = [CEConv2d(10, 10, channels, channels, 3, padding="same", separable=False) for _ in range(2)]
    model = shake(nn.Sequential(CEConv2d(1, 10, 3, channels, 3, padding="same"), *layers)).eval()
    made = written(tmp_path / "a.onnx", model, shape=(3, 64, 64), processor=processor)
    *_, last = made.compiled.choices
    assert (last.form, last.channels) == (form, (padded, padded))
    x = torch.randn(2, 3, 31, 28)
    check_exact(model, in_onnx_runtime(tmp_path / "a.onnx"), x)
    check_exact(model, in_openvino(tmp_path / "a.onnx"), x, roundings=64)


def test_the_compiler_can_be_caught_in_a_lie(tmp_path, monkeypatch):
    """A wrong pass ends in a failed verdict, and nothing is written."""
    right = compiling.fold_norms

    def wrong(graph):
        for node in graph:
            if node.op_type == "BatchNormalization":
                tensor = node.inputs[1].const_value
                node.inputs[1].const_value = ir.tensor(tensor.numpy() * 1.01)
        return right(graph)

    monkeypatch.setattr(compiling, "fold_norms", wrong)
    torch.manual_seed(0)
    with pytest.raises(Exception, match="nothing was written"):
        export_onnx(shake(small_network()).eval(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / f"{name}.onnx", small_network(), processor="avx2")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_torch_that_is_too_old_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda module, example: None)
    with pytest.raises(ExportError, match=r"torch 2\.10"):
        export_onnx(small_network(), tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("rotations", [3, 4])
def test_a_network_that_is_circular_already_is_compiled_too(tmp_path, rotations):
    torch.manual_seed(0)
    layers = [
        CEConv2d(1, rotations, 3, 6, 3, padding="same"),
        nn.BatchNorm3d(6),
        CEConv2d(rotations, rotations, 6, 6, 4, padding="same", separable=False),
        CEConv2d(rotations, 2, 6, 5, 3, stride=2, padding=(1, 0)),
        GroupCosetMaxPool(),
    ]
    model = shake(nn.Sequential(*layers)).eval()
    converted = convert(model, "conv3d")
    written(tmp_path / "a.onnx", model)
    written(tmp_path / "b.onnx", converted)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert export_onnx(converted, tmp_path / "c.onnx").passed


def test_a_symbolic_layer_computes_in_eager_mode_what_the_layer_does():
    torch.manual_seed(0)
    layers = (
        CEConv2d(1, 4, 3, 5, 3, padding="same", bias=False),
        CEConv2d(4, 4, 5, 6, 4, padding=(2, 1), separable=False),
        CEConv2d(4, 3, 6, 2, 3, stride=2, padding=(1, 0)),
    )
    model, x = shake(nn.Sequential(*layers)).eval(), torch.randn(2, 3, 17, 15)
    torch.testing.assert_close(exportable(model, "auto")(x), model(x))
