"""ONNX files: standard, as asked for, and the same numbers in ONNX Runtime and the reference evaluator."""

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from ceconv_convert import CEConv2d, convert, export_onnx, plan, verify
from ceconv_convert.errors import ExportError, NothingToConvertError, OutputError
from ceconv_convert.forms.table import FORMS
from ceconv_convert.onnx import export
from ceconv_convert.onnx.compile import Compiled
from ceconv_convert.onnx.deliver import chosen_row, exportable, write_judged_onnx
from ceconv_convert.onnx.export import Exported
from ceconv_convert.onnx.onnx_files import check_file
from ceconv_convert.onnx.passes.choose import Choice
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.surgery import wrapper_prefix
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.outputs import Recording, Step
from ceconv_convert.verification.reference import Example, Networks
from ceconv_convert.verification.trace import Trace
from tests.support import golden_layers, relative, small_network

EVERY_FORM = pytest.mark.parametrize("form", FORMS)
STANDARD = ("", "ai.onnx")


def exported(tmp_path, model, **arguments):
    path = tmp_path / "model.onnx"
    verdict = export_onnx(model, path, **arguments)
    assert verdict.passed
    return path


@pytest.mark.slow
@EVERY_FORM
@pytest.mark.parametrize("rotations", [3, 4])
def test_a_network_in_both_runtimes(tmp_path, form, rotations):
    model = small_network(rotations)
    path = exported(tmp_path, model, form=form)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(str(path), full_check=True)
    file = onnx.load(path)
    nodes = list(ir.traversal.RecursiveGraphIterator(ir.load(path).graph))
    assert {node.domain for node in nodes} <= set(STANDARD)
    assert not {node.op_type for node in nodes} & {"Pad", "ScatterND", "Loop", "If"}
    assert {axis.dim_param for axis in file.graph.input[0].type.tensor_type.shape.dim} == {
        "batch", "", "height", "width",
    }  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(str(path))
    exact = model.double()
    for batch in (1, 2, 5):
        for size in ((32, 32), (19, 26)):
            x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
            truth = exact(x.double())
            for runtime in (session, reference)[: 1 if batch > 2 else 2]:  # the reference is slow
                (found,) = runtime.run(["output"], {"input": x.numpy()})
                assert relative(torch.from_numpy(found), truth) < 1e-5


@pytest.mark.slow
@EVERY_FORM
@pytest.mark.parametrize("golden", golden_layers()[::5], ids=lambda golden: golden.name)
def test_golden_layers_in_onnx_runtime(tmp_path, golden, form):
    shape = tuple(golden.input.shape[1:])
    path = exported(tmp_path, nn.Sequential(golden.layer()), form=form, input_shape=shape)
    (found,) = OnnxRunner(path)(golden.input)
    assert relative(found, golden.output_float64) < 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
@pytest.mark.parametrize("form", ["auto", "conv3d"])
def test_the_opset_asked_for_is_the_opset_in_the_file(tmp_path, form):
    model = small_network()
    if form == "conv3d":
        model = nn.Sequential(*model[:8])  # torch has no maximum over an axis for opset 17
    for opset in (17, 20, 22):  # 18 is the default
        path = exported(tmp_path, model, form=form, opset=opset, force=True)
        versions = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
        assert {versions[domain] for domain in STANDARD if domain in versions} == {opset}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opset", "sentence"),
    [(17, "with opset 17: the exporter gives 18"), (999, "opset 999 does not exist"), (0, "opset 0")],
)
def test_an_opset_that_cannot_be_had_is_an_error(tmp_path, opset, sentence):
    with pytest.raises(ExportError, match=sentence):
        export_onnx(small_network(), tmp_path / "model.onnx", form="conv3d", opset=opset)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_circular_padding_is_slices_and_a_concat(tmp_path):
    model = nn.Sequential(CEConv2d(3, 3, 2, 2, 3))
    path = exported(tmp_path, model, form="conv3d", input_shape=(2, 3, 9, 9))
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Slice", "Slice", "Concat", "Conv"]


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_the_file(tmp_path):
    path = exported(tmp_path, small_network())
    assert b"site-packages" not in path.read_bytes()
    assert b".py" not in path.read_bytes()


def test_a_fixed_image_size_is_said_and_kept(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(CEConv2d(1, 3, 3, 2, 3), nn.Flatten(), nn.Linear(2 * 3 * 26 * 26, 4))
    path = exported(tmp_path, model)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 28, 28]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 28, 28)
        assert relative(OnnxRunner(path)(x)[0], model(x)) < 1e-5


def test_several_outputs_are_numbered(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = CEConv2d(1, 3, 3, 2, 3)

        def forward(self, x):
            features = self.layer(x)
            return features, features.amax(2)

    path = exported(tmp_path, Both())
    assert [value.name for value in onnx.load(path).graph.output] == ["output_0", "output_1"]


@pytest.mark.slow
def test_a_model_converted_already_is_exported_as_it_is(tmp_path):
    model = small_network()
    path = exported(tmp_path, convert(model))
    assert verify(model, path).passed
    with pytest.raises(NothingToConvertError):
        export_onnx(nn.Conv2d(3, 2, 3), tmp_path / "other.onnx")


@pytest.mark.slow
def test_training_mode_is_not_exported_and_not_touched(tmp_path):
    model = small_network().train()
    path = exported(tmp_path, model)
    assert model.training
    assert verify(model, path).passed


@pytest.mark.slow
def test_half_precision_runs(tmp_path):
    path = exported(tmp_path, small_network().half())
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_dtype_that_onnx_runtime_lacks_is_an_error(tmp_path, dtype):
    with pytest.raises(ExportError, match="convert model.float"):
        export_onnx(small_network().to(dtype), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_network_that_cannot_be_exported(tmp_path):
    class DataDependent(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    with pytest.raises(ExportError, match="torch cannot export the network: "):
        export_onnx(nn.Sequential(small_network(), DataDependent()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_existing_file_stays_without_force(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("precious")
    with pytest.raises(OutputError, match="pass --force"):
        export_onnx(small_network(), path)
    assert path.read_text() == "precious"
    export_onnx(small_network(), path, force=True)
    check_file(path)


@pytest.mark.slow
def test_the_exporter_says_nothing(tmp_path, capfd):
    exported(tmp_path, small_network())
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_a_damaged_file_fails(tmp_path):
    model = small_network()
    path = exported(tmp_path, model)
    file = onnx.load(path)
    weight = next(tensor for tensor in file.graph.initializer if tensor.name == "4.weight")
    numbers = onnx.numpy_helper.to_array(weight).copy()
    numbers.flat[0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(numbers, weight.name))
    onnx.save(file, path)
    verdict = verify(model, path)
    assert not verdict.passed
    assert "FAIL: model.onnx in ONNX Runtime: layer 4: its error" in str(verdict)


def test_a_file_that_is_no_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a protobuf")
    with pytest.raises(ExportError, match="ONNX Runtime cannot load the file"):
        verify(small_network(), path)


def test_foreign_operators_are_found(tmp_path):
    node = onnx.helper.make_node("Sparkle", ["input"], ["output"], domain="com.example")
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("input", "output")]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.example", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(ExportError, match="com.example::Sparkle"):
        check_file(path)


def test_an_invalid_file_is_found(tmp_path):
    node = onnx.helper.make_node("Relu", ["missing"], ["output"])
    value = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [value])), path)
    with pytest.raises(ExportError, match="the ONNX checker refuses the file"):
        check_file(path)


@pytest.mark.slow
def test_past_the_protobuf_limit_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_PROTOBUF_LIMIT", 1)
    model = convert(small_network())
    path = tmp_path / "model.onnx"
    export.write_onnx(model, path, torch.zeros(2, 3, 32, 32))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    x = torch.randn(1, 3, 20, 20)
    assert np.allclose(OnnxRunner(path)(x)[0], model(x).detach(), atol=1e-5)


class Variadic(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def forward(self, *inputs, **options):
        return self.inner(*inputs)


WRAPPERS = {
    "data parallel": nn.DataParallel,
    "compiled": partial(torch.compile, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "compiled inside": lambda model: nn.Sequential(torch.compile(model, backend="eager")),
}
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_exported_without_its_wrapper(tmp_path, wrap):
    if OLD and wrap is WRAPPERS["compiled inside"]:
        pytest.skip("a guard of torch 2.9 and 2.10 fails on it")
    model = small_network()
    file = onnx.load(exported(tmp_path, wrap(model)))
    assert [value.name for value in file.graph.input] == ["input"]
    x = torch.randn(3, 3, 20, 24)
    (found,) = OnnxRunner(tmp_path / "model.onnx")(x)
    assert relative(found, model(x)) < 1e-5


def test_names_are_those_inside_the_wrappers_and_no_others():
    """A step ``2.0`` is not the layer ``0`` that took up a norm."""
    steps = [Step(name, 0, torch.ones(1), ()) for name in ("module.0", "module.2.0")]
    network, recording = nn.DataParallel(nn.Identity()), Recording(steps=steps)
    example = Example(lambda: torch.ones(1), recording, recording, Networks(network, network, {}))
    checks = Trace(example).compare_values([torch.zeros(1)], folded={"0"})
    assert [check.problem for check in checks] == [None, "nothing in it has these features"]


@pytest.mark.parametrize("wrap", [WRAPPERS["data parallel"], WRAPPERS["both"]])
def test_a_wrapped_network_has_the_forms_that_were_chosen(tmp_path, wrap):
    model, exported = wrap(small_network()), Exported(prefix=wrapper_prefix(wrap(small_network())))
    choice = Choice("4", "fourier", (8, 8), {"fourier": 1.0})
    exported = replace(exported, compiled=Compiled((choice,)))
    assert [chosen_row(row, exported).form for row in plan(model, "auto")] == ["auto", "fourier", "auto"]


@pytest.mark.slow
def test_a_forward_pass_of_any_inputs_is_exported(tmp_path):
    exported(tmp_path, Variadic())


class Named(nn.Module):
    """Its parameters have the names of the file's input and outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.inner = small_network()
        self.outputs = outputs
        for name in ("input", "output", "output_0", "output_1"):
            self.register_parameter(name, nn.Parameter(torch.randn(4)))

    def forward(self, x):
        y = self.inner(x) * self.input + self.output
        return y if self.outputs == 1 else (y - self.output_0, y + self.output_1)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
def test_parameters_named_as_the_ends_of_the_graph(tmp_path, outputs):
    file = onnx.load(exported(tmp_path, Named(outputs)))
    assert [value.name for value in file.graph.input] == ["input"]
    expected = ["output"] if outputs == 1 else ["output_0", "output_1"]
    assert [value.name for value in file.graph.output] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("one_capture")
@pytest.mark.parametrize("form", ["auto", "conv3d"])
def test_what_is_wrong_with_dynamic_sizes_is_written_with_fixed_ones(tmp_path, form):
    """torch exports this pooling for the example's size alone, and says nothing."""
    model = nn.Sequential(*small_network()[:9], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4))
    evidence = gather(model)
    made, verdict = write_judged_onnx(
        evidence, exportable(model, form), tmp_path / "a.onnx", form=form, opset=18
    )
    assert verdict.passed
    assert list(made.fixed) == ["size"]
    assert "since with a dynamic size the verdict fails" in made.fixed["size"]
    shape = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape
    assert [axis.dim_param for axis in shape.dim] == ["batch", "", "", ""]
    with pytest.warns(UserWarning, match=r"b\.onnx: height and width are fixed, since with a dynamic size"):
        export_onnx(model, tmp_path / "b.onnx", form=form)
