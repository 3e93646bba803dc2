"""Graphs that torch's exporter does not write, but a graph may hold: compiled, they compute the same."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from ceconv_convert import CEConv2d
from ceconv_convert.conversion.find import read_layer
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.onnx.compile import compile_graph
from ceconv_convert.onnx.dialect import Layer
from ceconv_convert.onnx.passes.cost_models import cost_model

HEAD = """<ir_version: 10, opset_import: ["": 18, "ceconv.dialect": 1]>
network (float[B,3,H,W] x) => (float{shape} y)
<int64[0] none = {{}}, float[4] ones = {{1,1,1,1}}, float[4] zeros = {{0,0,0,0}}>
{{ f = ceconv.dialect.Layer <name="lifting"> (x)
{body} }}"""


@pytest.fixture
def lifting():
    torch.manual_seed(0)
    return read_layer(CEConv2d(1, 3, 3, 4, 3, padding=1)).map(lambda tensor: tensor.detach().double())


def compiled(spec, body, shape):
    """The graph with a lifting layer and what comes behind it, compiled."""
    proto = onnx.parser.parse_model(HEAD.format(body=body, shape=shape))
    proto.graph.value_info.append(
        onnx.helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, ["B", 4, 3, "H", "W"])
    )
    model = ir.from_proto(proto)
    compile_graph(
        model,
        {"lifting": Layer("lifting", spec, (8, 8), torch.float32)},
        form="auto",
        costs=cost_model("avx2"),
    )
    return ir.to_proto(model)


@pytest.mark.parametrize(("noop", "kept"), [(0, False), (1, True)])
@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMean", "ReduceSum", "ReduceMin"])
def test_a_reduction_over_empty_axes(lifting, op_type, noop, kept):
    """Empty axes are all axes, the batch and the channels too; or, with the attribute, none."""
    shape = "[B,4,3,H,W]" if noop else "[1,1,1,1,1]"
    file = compiled(lifting, f"y = {op_type} <noop_with_empty_axes = {noop}> (f, none)", shape)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    (found,) = ReferenceEvaluator(file).run(None, {"x": x})
    features = evaluate(lifting, torch.from_numpy(x).double()).numpy()
    reduce = {"ReduceMax": np.max, "ReduceMean": np.mean, "ReduceSum": np.sum, "ReduceMin": np.min}[op_type]
    expected = features if kept else reduce(features, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("training", "moved"), [(0, True), (1, False)])
def test_a_norm_in_training_mode_stays_where_it_is(lifting, training, moved):
    """Its statistics are those of the batch, and channel padding would be among them."""
    outputs = "y, mean, variance" if training else "y"
    norm = f"{outputs} = BatchNormalization <training_mode = {training}> (r, ones, zeros, zeros, ones)"
    file = compiled(lifting, f"r = Relu(f) {norm}", "[B,4,3,H,W]")
    kinds = [node.op_type for node in file.graph.node]
    assert (kinds.index("BatchNormalization") < kinds.index("Transpose")) is moved
