"""A converted module → an ONNX file of standard operators."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.version_converter import convert_version
from torch import Tensor, nn

from ceconv_convert.errors import ExportError
from ceconv_convert.files.system import writing
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.onnx.assumptions import Assumption
from ceconv_convert.onnx.boundaries import LAYERS, boundaries_as_text, boundaries_of_modules
from ceconv_convert.onnx.capture import EXPORT_FAILURES, capture, explain, quiet
from ceconv_convert.onnx.compile import Compiled, compile_graph
from ceconv_convert.onnx.dialect import layers_as_exported, name_layers
from ceconv_convert.onnx.finish import finish
from ceconv_convert.onnx.passes.cost_models import CostModel, cost_model
from ceconv_convert.surgery import copy_model, unwrapped, wrapper_prefix
from ceconv_convert.verification.evidence import Progress

DEFAULT_OPSET = 18
"""The oldest opset that torch's exporter writes without conversion: the most runtimes read it."""
_PROTOBUF_LIMIT = 2**31 - 2**20
"""A single protobuf holds less than 2 GiB; past that the weights lie in a file beside it."""
_HINT = "; the form conv2d may do"


@dataclass(frozen=True)
class Exported:
    """What was written, and what it assumes of its dynamic axes.

    ``fixed`` has the axes that are not dynamic, ``size`` (height and width) and ``batch`` (of 1), with the
    reason; ``prefix`` is that of the wrappers around the network, which are not exported. ``bytes_of`` has
    the bytes of each module's weights in the file.
    """

    fixed: Mapping[str, str] = field(default_factory=dict)
    compiled: Compiled = field(default_factory=Compiled)
    prefix: str = ""
    assumptions: tuple[Assumption, ...] = ()
    bytes_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """A line on each axis that is fixed for a reason."""
        axes = {"size": "height and width are fixed", "batch": "the batch is fixed at 1"}
        return [f"{axes[axis]}, {reason}" for axis, reason in self.fixed.items() if reason]


def write_onnx(
    model: nn.Module,
    path: Path,
    example: Tensor,
    *,
    opset: int = DEFAULT_OPSET,
    fixed: Mapping[str, str] | None = None,
    form: str = "auto",
    costs: CostModel | None = None,
    static_batch: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export a copy of ``model`` in eval mode, with a dynamic batch, height and width where torch can.

    The input is named ``input``; the outputs ``output``, or ``output_0``, ``output_1``, …

    The model has no ``CEConv2d``; its symbolic layers get the ``form``, ``auto`` or ``fourier``, that suits
    the cost model (None is that of float32 in ONNX Runtime on this machine). The example has a batch of at
    least 2. The axes ``size`` and ``batch`` are not dynamic where ``fixed`` has them, with the reason. With a
    ``static_batch``, which the example has at least, all sizes in the file are numbers.

    Raises:
        ExportError: where the exporter cannot express the model, or not in this opset.
        OutputError: where the file cannot be written.
    """
    if "prefer_deferred_runtime_asserts_over_guards" not in signature(torch.export.export).parameters:
        raise ExportError(f".onnx files need torch 2.10 or newer, found {torch.__version__}")
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise ExportError(f"opset {opset} does not exist for onnx {onnx.__version__}: it knows 1 to {newest}")
    costs = costs or cost_model()
    module = unwrapped(copy_model(model).eval())
    symbolic = name_layers(module)
    captured = capture(
        module,
        example,
        DEFAULT_OPSET if symbolic else opset,
        fixed=fixed or {},
        batch=static_batch or 1,
        hint=_HINT if symbolic else "",  # a layer in a branch, as of torch.cond
        progress=progress,
    )
    graph = captured.model.graph
    if symbolic:
        layers = layers_as_exported(symbolic, example)
        try:
            with quiet():
                compiled = compile_graph(captured.model, layers, form=form, costs=costs)
                convert_version(captured.model, opset, fallback=True)
        except EXPORT_FAILURES as error:
            problem = f"the graph cannot be compiled: {type(error).__name__}: {explain(error, _HINT)}"
            raise ExportError(problem) from error
        boundaries = compiled.boundaries
    else:
        majors = {
            n: layer.group_major for n, layer in module.named_modules() if isinstance(layer, TargetLayer)
        }
        compiled, found_boundaries = Compiled(), boundaries_of_modules(graph, majors)
        boundaries = tuple(
            replace(each, major_in=majors[each.layer], major_out=majors[each.layer])
            for each in found_boundaries
        )
    found = captured.model.opset_imports.get("")
    if found != opset:
        problem = f"the network cannot be written with opset {opset}: the exporter gives {found}"
        raise ExportError(f"{problem}; pass --opset {found}")
    with quiet():
        sizes = finish(captured.model, name=type(module).__name__, static=static_batch is not None)
    common.NameFixPass()(captured.model)  # a weight or an inner value of that name gets another
    captured.model.metadata_props[LAYERS] = boundaries_as_text(graph, boundaries)
    save_graph(captured.model, path)
    if progress is not None:
        progress(4, 4)
    compiled = replace(compiled, boundaries=())  # they hold the graph
    for value in graph.initializers.values():
        value.const_value = None  # graphs refer to themselves, and are collected late
    return Exported(captured.fixed, compiled, wrapper_prefix(model), captured.assumptions, sizes)


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a file, the weights beside it where one cannot hold them; OutputError where that fails."""
    weights = [value.const_value for value in model.graph.initializers.values()]
    inside = sum(t.nbytes for t in weights if t is not None and not isinstance(t, ir.ExternalTensor))
    with writing(path):
        ir.save(model, path, external_data=f"{path.name}.data" if inside > _PROTOBUF_LIMIT else None)
