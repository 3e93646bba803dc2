"""What users write between and behind layers: exported with every form, and right at other sizes."""

import json

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetAvgPool, GroupCosetMaxPool, export_onnx, verify
from ceconv_convert.errors import ExportError, SpecError
from ceconv_convert.onnx.boundaries import LAYERS, boundaries_of
from tests.support import shake, small_network
from tests.test_compile import check_exact, counts, in_onnx_runtime

SIDE = 24


class Network(nn.Module):
    """A function of modules and the input."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


class OwnNorm(nn.Module):
    """A norm that is no torch.nn.BatchNorm3d."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("variance", torch.rand(channels) + 0.5)

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.variance)


def lifting(rotations=3, channels=6):
    return CEConv2d(1, rotations, 3, channels, 3, padding=1)


def hidden(rotations=3, out=6, out_rotations=3, kernel=3, **options):
    return CEConv2d(rotations, out_rotations, 6, out, kernel, padding=kernel // 2, **options)


def norm2d():
    return nn.InstanceNorm2d(6, affine=True)


def after(function, **modules):
    """A network that does something with the features of a lifting layer."""
    return Network(lambda self, x: function(self, self.lifting(x)), lifting=lifting(), **modules)


NETWORKS = {
    "a norm behind a sum": lambda: after(
        lambda m, y: m.norm(m.a(y) + m.b(y)), a=hidden(), b=hidden(kernel=1), norm=nn.BatchNorm3d(6)
    ),
    "a norm behind a sum that is broadcast": lambda: after(
        lambda m, y: m.norm(m.a(y) + m.b(y)), a=hidden(), b=hidden(out_rotations=1), norm=nn.BatchNorm3d(6)
    ),
    "a norm of one's own": lambda: nn.Sequential(lifting(), hidden(), OwnNorm(6), nn.ReLU()),
    "one rotation, coset maximum": lambda: nn.Sequential(
        lifting(), hidden(out_rotations=1), GroupCosetMaxPool()
    ),
    "lifting to one rotation, coset mean": lambda: nn.Sequential(lifting(1), GroupCosetAvgPool()),
    "reduced twice": lambda: after(lambda m, y: y.amax(2, keepdim=True).mean(2)),
    "less the maximum": lambda: after(
        lambda m, y: m.a(y - y.amax(2, keepdim=True) + y.mean(2, keepdim=True)), a=hidden()
    ),
    "attention of one channel": lambda: after(
        lambda m, y: m.b(m.a(y).sigmoid() * torch.roll(y, 1, 2)), a=hidden(out=1, kernel=1), b=hidden()
    ),
    "one rotation and three": lambda: after(
        lambda m, y: torch.roll(y, 1, 2) + m.a(y), a=hidden(out_rotations=1, kernel=1)
    ),
    "the same, flat and not": lambda: after(lambda m, y: (y.flatten(1, 2).relu(), y.relu())),
    "called by keyword": lambda: after(lambda m, y: m.b(input=m.a(input=y)), a=hidden(), b=hidden()),
    "the mean of a normalized image": lambda: after(lambda m, y: m.n(y.amax(2)).mean((2, 3)), n=norm2d()),
    "forward called": lambda: after(lambda m, y: m.b.forward(m.a.forward(y)), a=hidden(), b=hidden()),
    "attributes read": lambda: after(
        lambda m, y: m.a(y)[..., :: m.a.stride[0]] / m.a.kernel_size[1], a=hidden(stride=2)
    ),
    "a number of high rank": lambda: after(lambda m, y: (y * torch.full((1,) * 6, 1.5))[0]),
    "a number of high rank on pooled features": lambda: after(
        lambda m, y: y.amax(2) / torch.full((1,) * 5, 1.5)
    ),
    "an infinite factor": lambda: after(lambda m, y: m.a((y * 1e39).clamp(-1, 1)), a=hidden()),
    "an infinite divisor": lambda: after(lambda m, y: m.a(y / 1e39), a=hidden()),
    "mean of all": lambda: after(lambda m, y: m.a(y).mean((2, 3, 4)), a=hidden()),
    "maximum of all, axes kept": lambda: after(lambda m, y: m.a(y).amax((2, 3, 4), keepdim=True), a=hidden()),
    "sum over space": lambda: after(lambda m, y: m.a(y).sum((3, 4)), a=hidden()),
    "mean over rows": lambda: after(lambda m, y: m.a(y).mean((2, 3)), a=hidden()),
    "mean over channels": lambda: after(lambda m, y: m.a(y).mean((1, 2)), a=hidden()),
    "mean over space, flat": lambda: after(lambda m, y: m.a(y).flatten(1, 2).mean((2, 3)), a=hidden()),
    "adaptive mean": lambda: nn.Sequential(lifting(), hidden(), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    "a layer called twice": lambda: after(lambda m, y: m.a(m.a(y)[..., ::2, ::2]), a=hidden()),
}
OVER_SPACE = (
    *("mean of all", "maximum of all, axes kept", "sum over space", "mean over space, flat"),
    "adaptive mean",
)


def exported(path, model, form="auto", **options):
    assert export_onnx(model, path, form=form, input_shape=(3, SIDE, SIDE), **options).passed


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_form_takes_it(tmp_path, name):
    torch.manual_seed(0)
    model, path = shake(NETWORKS[name]()).eval(), tmp_path / "a.onnx"
    x = torch.randn(3, 3, SIDE + 5, SIDE - 3)
    for form in ("auto", "fourier", "conv2d"):
        exported(path, model, form, force=True)
        if isinstance(model(x), torch.Tensor):
            check_exact(model, in_onnx_runtime(path), x, roundings=64)
        height = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2]
        assert height.dim_param == "height"


@pytest.mark.slow
@pytest.mark.parametrize("name", OVER_SPACE)
def test_reductions_over_space_are_rotation_major(tmp_path, name):
    torch.manual_seed(0)
    exported(tmp_path / "a.onnx", shake(NETWORKS[name]()).eval())
    nodes = onnx.load(tmp_path / "a.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert "Transpose" not in kinds[: kinds.index(next(kind for kind in kinds if "Reduce" in kind))]


@pytest.mark.parametrize("name", ["a norm behind a sum", "a norm of one's own"])
def test_damage_behind_a_folded_norm_is_caught(tmp_path, name):
    """A layer that took up a norm has no features of its own in the file; what comes behind has."""
    torch.manual_seed(0)
    model, path = shake(NETWORKS[name]()).eval(), tmp_path / "a.onnx"
    exported(path, model)
    assert verify(model, path, input_shape=(3, SIDE, SIDE)).passed
    file = onnx.load(path)
    tensor = next(tensor for tensor in file.graph.initializer if "weight" in tensor.name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(file, path)
    assert not verify(model, path, input_shape=(3, SIDE, SIDE)).passed


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"a": 1}', "[1, null]", "7", "[" * 10**5, "[{}]", '[{"layer": 1, "norms": []}]'),
        '[{"layer": "a", "input": "x", "output": 3, "norms": []}]',
        '[{"layer": "a", "input": "x", "output": "y", "norms": 3}]',
        '[{"layer": "a", "input": "x", "output": "y", "norms": [], "further": 1}]',
    ],
)
def test_a_note_on_layers_is_not_believed_blindly(text):
    assert boundaries_of({LAYERS: text}) == []


@pytest.mark.slow
@pytest.mark.parametrize(("key", "fails"), [("input", False), ("output", True), ("major_in", True)])
def test_a_note_that_is_not_of_this_graph_ends_in_a_verdict(tmp_path, key, fails):
    """Values of another shape are left alone; others are judged."""
    torch.manual_seed(0)
    model, path = shake(small_network()).eval(), tmp_path / "a.onnx"
    assert export_onnx(model, path).passed
    file = onnx.load(path)
    entry = next(entry for entry in file.metadata_props if entry.key == LAYERS)
    layers = json.loads(entry.value)
    layers[0][key], layers[2][key] = layers[2][key], layers[0][key]
    entry.value = json.dumps(layers)
    onnx.save(file, path)
    verdict = verify(model, path)
    assert verdict.passed is not fails
    assert len(verdict.layers) < 3 or fails


@pytest.mark.slow
def test_a_value_that_is_no_tensor(tmp_path):
    model = after(lambda m, y: torch.cat(y.split(8, 3)[::-1], 3))
    with pytest.warns(UserWarning, match="height and width are fixed"):
        exported(tmp_path / "a.onnx", model.eval())
    assert counts(tmp_path / "a.onnx")["Conv"] == 1


@pytest.mark.parametrize("form", ["auto", "conv2d"])
def test_an_unknown_processor_is_said_to_be_one(tmp_path, form):
    with pytest.raises(SpecError, match="one of avx2, avx512, avx512_vnni; found 'sse'"):
        exported(tmp_path / "a.onnx", after(lambda m, y: y).eval(), form, processor="sse")


def test_what_the_compiler_cannot_run_names_the_way_out(tmp_path):
    model = after(lambda m, y: m.a(y) * m.a.weight.abs().mean(), a=hidden())
    with pytest.raises(ExportError, match="no attribute 'weight'; the form conv2d may do"):
        exported(tmp_path / "a.onnx", model.eval())
