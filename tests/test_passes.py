"""Passes over the graph: how often they fire, what is left, and that the numbers stay."""

import collections

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, convert, export_onnx
from ceconv_convert.architectures import CECNN, BasicBlock, Bottleneck, HybridResNet, ResNet
from ceconv_convert.graph import OnnxRunner, export, write_onnx
from ceconv_convert.graph.passes import GraphIndex, run_passes
from ceconv_convert.graph.passes.fold_norms import SWAP
from ceconv_convert.graph.passes.index import attribute
from tests.support import relative, shake, small_network


def cnn():
    return CECNN(4, 3, 7, True)


NETWORKS = {
    "small": (small_network, (3, 32, 32)),
    "even": (lambda: small_network(rotations=6), (3, 32, 32)),
    "basic": (lambda: ResNet(BasicBlock, [1, 2, 1], [5, 6, 7], 4, 3, True, separable=True), (3, 32, 32)),
    "bottleneck": (lambda: ResNet(Bottleneck, [1, 1, 1], [4, 4, 4], 4, 4, False), (3, 32, 32)),
    "hybrid": (lambda: HybridResNet(BasicBlock, [1, 1, 1], [5, 6, 7], 2, 4, 3), (3, 32, 32)),
    "cnn": (cnn, (3, 28, 28)),
}


def counts(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_the_numbers_stay(tmp_path, build, shape, monkeypatch):
    torch.manual_seed(0)
    model = shake(build()).eval()
    path = tmp_path / "a.onnx"
    assert export_onnx(model, path, form="fourier", input_shape=shape).passed
    onnx.checker.check_model(str(path), full_check=True)
    x = torch.randn(2, *shape)
    truth = model.double()(x.double())
    for run in (OnnxRunner(path), lambda x: ReferenceEvaluator(str(path)).run(None, {"input": x.numpy()})):
        (found,) = run(x)
        assert relative(torch.as_tensor(found), truth) < 1e-5


def test_what_is_left_of_a_resnet(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = shake(ResNet(BasicBlock, [1, 2, 1], [5, 6, 7], 4, 3, True, separable=True)).eval()
    network, example = convert(model, "fourier"), torch.randn(2, 3, 32, 32)
    fired = {}
    monkeypatch.setattr(export, "run_passes", lambda path: fired.update(run_passes(path)))
    write_onnx(network, tmp_path / "after.onnx", example)
    monkeypatch.setattr(export, "run_passes", lambda path: {})
    write_onnx(network, tmp_path / "before.onnx", example)
    before, after = counts(tmp_path / "before.onnx"), counts(tmp_path / "after.onnx")
    layers = sum(type(module).__name__ == "FourierConv2d" for module in network.modules())
    assert fired["fold_norms"] == before["BatchNormalization"] == layers
    assert fired["sink_transposes"] > 0
    assert after["BatchNormalization"] == 0
    assert before["Transpose"] > layers
    assert after["Transpose"] == 1  # where the lifting layer hands over
    assert after["Conv"] == before["Conv"] > 2 * layers
    results = [OnnxRunner(tmp_path / f"{name}.onnx")(example)[0] for name in ("before", "after")]
    assert relative(results[0], results[1]) < 1e-5


def test_a_norm_that_is_not_alone_with_its_layer_stays(tmp_path):
    """What the layer gives is taken twice: it may not be scaled."""

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
    assert export_onnx(model, tmp_path / "a.onnx", form="fourier").passed
    assert counts(tmp_path / "a.onnx")["BatchNormalization"] == 1


def test_a_graph_without_fourier_layers_is_left_alone(tmp_path):
    path = tmp_path / "a.onnx"
    assert export_onnx(small_network(), path).passed
    before = path.read_bytes()
    assert run_passes(path) == {"fold_norms": 0, "sink_transposes": 0}
    assert path.read_bytes() == before


def test_only_the_swap_is_moved(tmp_path):
    """A transpose of one's own is none of ours."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(CEConv2d(1, 3, 3, 4, 3), CEConv2d(3, 3, 4, 4, 3))

        def forward(self, x):
            return self.inner(x).transpose(3, 4).relu()

    torch.manual_seed(0)
    assert export_onnx(Turned().eval(), tmp_path / "a.onnx", form="fourier").passed
    index = GraphIndex(onnx.load(tmp_path / "a.onnx").graph)
    perms = [attribute(node, "perm") for node in index.nodes if node.op_type == "Transpose"]
    assert [perm for perm in perms if perm != SWAP]
