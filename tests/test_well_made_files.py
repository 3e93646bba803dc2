"""The ONNX file itself: names and sizes that readers use, and files of one input shape, in three runtimes."""

import json

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import ceconv_convert
from ceconv_convert import export_onnx
from ceconv_convert.architectures.resnet import BasicBlock, ResNet
from ceconv_convert.errors import InputShapeError
from ceconv_convert.layers.ceconv2d import CEConv2d
from ceconv_convert.onnx.boundaries import LAYERS
from tests.support import shake
from tests.test_compile import in_openvino, in_the_reference

ARITHMETIC = {
    *("Conv", "Relu", "Add", "MaxPool", "BatchNormalization", "Gemm", "Transpose", "Reshape"),
    *("ReduceMax", "ReduceMean", "GlobalAveragePool", "AveragePool", "Slice", "Concat", "Unsqueeze", "Pad"),
}


def network():
    return shake(ResNet(BasicBlock, [1, 2, 1], [5, 6, 7], 4, 3, True, separable=True))


def shapes(values):
    return {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize("form", ["auto", "fourier", "conv3d", "conv2d"])
def test_a_static_file_is_arithmetic_on_known_sizes(tmp_path, form):
    model, path = network(), tmp_path / "file.onnx"
    verdict = export_onnx(model, path, form=form, static=True, input_shape=(5, 3, 32, 28))
    assert {case.shape for case in verdict.cases} == {(5, 3, 32, 28)}
    assert verdict.layers
    found = onnx.load(path)
    assert {node.op_type for node in found.graph.node} <= ARITHMETIC
    constants = {tensor.name for tensor in found.graph.initializer}
    assert all(node.input[1] in constants for node in found.graph.node if node.op_type == "Reshape")
    known = shapes([*found.graph.input, *found.graph.value_info, *found.graph.output])
    made = {name for node in found.graph.node for name in node.output}
    assert made <= known.keys()
    assert all(isinstance(size, int) and size > 0 for name in made for size in known[name])
    x = torch.randn(5, 3, 32, 28)
    with torch.no_grad():
        expected = model.eval()(x)
    for run in (in_openvino(path), in_the_reference(path)):
        torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_static_file_has_a_batch_of_one_unless_said(tmp_path):
    export_onnx(network(), tmp_path / "file.onnx", static=True, input_shape=(3, 32, 32))
    graph = onnx.load(tmp_path / "file.onnx").graph
    assert shapes([*graph.input, *graph.output]) == {"input": [1, 3, 32, 32], "output": [1, 4]}
    with pytest.raises(InputShapeError, match="without the batch"):
        export_onnx(network(), tmp_path / "other.onnx", input_shape=(5, 3, 32, 32))


def test_a_static_file_is_judged_on_whole_batches_of_the_users_images(tmp_path):
    images, labels = torch.randn(7, 3, 32, 32), torch.zeros(7, dtype=torch.int64)
    verdict = export_onnx(
        network(),
        tmp_path / "file.onnx",
        static=True,
        input_shape=(3, 3, 32, 32),
        inputs=images,
        labels=labels,
    )
    assert verdict.accuracy is not None
    assert verdict.accuracy.of == 6


@pytest.mark.parametrize("form", ["auto", "conv3d"])
def test_nodes_and_values_have_their_modules_path(tmp_path, form):
    path, model = tmp_path / "file.onnx", network()
    export_onnx(model, path, form=form)
    found = onnx.load(path)
    modules = {name for name, _ in model.named_modules()}
    assert {node.name.rpartition("/")[0] for node in found.graph.node} <= modules
    assert "layers.1.1.conv1/Conv" in {node.name for node in found.graph.node}
    names = {name for node in found.graph.node for name in node.output}
    assert names - {"output"} <= {f"{node.name}" for node in found.graph.node}
    assert (found.producer_name, found.producer_version) == ("ceconv-convert", ceconv_convert.__version__)
    assert found.graph.name == "ResNet"
    assert "color-equivariant" in found.doc_string.lower()
    texts = {entry.key: json.loads(entry.value) for entry in found.metadata_props}
    assert texts["ceconv_convert"]["verdict"]["layers"] == len(texts[LAYERS]) == 11


def test_inner_values_of_a_dynamic_file_have_no_sizes_by_name(tmp_path):
    path = tmp_path / "file.onnx"
    export_onnx(network(), path, processor="avx512")  # which pads no channels here
    graph = onnx.load(path).graph
    assert shapes(graph.input) == {"input": ["batch", 3, "height", "width"]}
    known = shapes(graph.value_info)
    assert not any(isinstance(size, str) and size for sizes in known.values() for size in sizes)
    assert known["layers.0.0.conv1/Conv"][1] == 15  # a runtime still sees the channels


def test_every_convolution_states_its_kernel(tmp_path):
    """MNN takes it from there alone, and crashes without."""
    export_onnx(network(), tmp_path / "file.onnx", form="fourier")
    graph = onnx.load(tmp_path / "file.onnx").graph
    shapes_of = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert any(len(shapes_of[node.input[1]]) == 5 for node in convolutions)
    for node in convolutions:
        stated = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        assert stated["kernel_shape"] == shapes_of[node.input[1]][2:]


def test_a_layer_at_the_root_names_its_nodes_by_operators(tmp_path):
    export_onnx(CEConv2d(1, 3, 3, 8, 3), tmp_path / "file.onnx", input_shape=(3, 8, 8))
    assert "Conv" in {node.name for node in ir.load(tmp_path / "file.onnx").graph}


def test_modules_of_equal_names_and_shared_ones_make_no_name_twice(tmp_path):
    shared = CEConv2d(3, 3, 8, 8, 3, padding=1)
    export_onnx(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), shared, nn.ReLU(), shared), tmp_path / "file.onnx")
    names = [node.name for node in ir.load(tmp_path / "file.onnx").graph]
    assert len(set(names)) == len(names)
