"""A converted module → an ONNX file of standard operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnxscript.version_converter import convert_version
from torch import Tensor, nn

from ceconv_convert.errors import ExportError, OutputError
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.onnx.assumptions import Assumption
from ceconv_convert.onnx.boundaries import LAYERS, boundaries_as_text
from ceconv_convert.onnx.capture import EXPORT_FAILURES, capture, explain
from ceconv_convert.onnx.compile import Compiled, compile_graph
from ceconv_convert.onnx.dialect import Layer, SymbolicLayer, name_layers
from ceconv_convert.onnx.ends import Ends, boundaries_in, ends_of_modules
from ceconv_convert.onnx.passes.costs import block_of
from ceconv_convert.onnx.quiet import quiet
from ceconv_convert.onnx.tidy import name_ends
from ceconv_convert.surgery import copy_model, unwrapped, wrapper_prefix

DEFAULT_OPSET = 18
"""The oldest opset that torch's exporter writes without conversion: the most runtimes read it."""

_PROTOBUF_LIMIT = 2**31 - 2**20
"""A single protobuf holds less than 2 GiB; past that the weights lie in a file beside it."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        dynamic_size: whether height and width are dynamic.
        reason: why they are not.
        compiled: what became of the symbolic layers.
        prefix: of the network's names inside the wrappers around it, which are not exported.
        dynamic_batch: whether the batch is dynamic; a fixed one is 1.
        batch_reason: why it is not.
        assumptions: what the graph assumes of the axes that are dynamic.
    """

    dynamic_size: bool
    reason: str | None = None
    compiled: Compiled = field(default_factory=Compiled)
    prefix: str = ""
    dynamic_batch: bool = True
    batch_reason: str | None = None
    assumptions: tuple[Assumption, ...] = ()

    @property
    def notes(self) -> list[str]:
        """A line on each axis that is fixed, with the reason."""
        reasons = (
            ("height and width are fixed", self.reason),
            ("the batch is fixed at 1", self.batch_reason),
        )
        return [f"{what}, {reason}" for what, reason in reasons if reason is not None]


def write_onnx(
    model: nn.Module,
    path: Path,
    example: Tensor,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic_size: bool = True,
    dynamic_batch: bool = True,
    form: str = "auto",
    processor: str | None = None,
) -> Exported:
    """Export ``model`` in eval mode, with a dynamic batch, height and width where it can.

    The input is named ``input``; the outputs ``output``, or ``output_0``, ``output_1``, … ``model`` is not
    changed.

    Args:
        model: a module without ``CEConv2d``; its symbolic layers are compiled.
        path: the file to write.
        example: an input with a batch of at least 2: a batch of 1 would be taken for a constant.
        opset: of the file.
        dynamic_size: whether height and width are dynamic.
        dynamic_batch: whether the batch is dynamic.
        form: of symbolic layers, ``auto`` or ``fourier``.
        processor: that symbolic layers are compiled for, ``avx2`` or ``avx512``; None is this machine's.

    Returns:
        What was written.

    Raises:
        ExportError: where the exporter cannot express the model, or not in this opset.
        SpecError: for a processor that is not known.
        OutputError: where the file cannot be written.
    """
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise ExportError(f"opset {opset} does not exist for onnx {onnx.__version__}: it knows 1 to {newest}")
    block = block_of(processor)  # one that is not known is said at once
    module = unwrapped(copy_model(model).eval())
    if _is_symbolic(module) and not _has_symbolic():
        raise ExportError(
            f"the forms auto and fourier of .onnx files need torch 2.8 or newer, found {torch.__version__}: "
            "export with the form conv2d or conv3d"
        )
    layers = _named(module, example)
    captured = capture(
        module,
        example,
        DEFAULT_OPSET if layers else opset,
        batch=dynamic_batch,
        size=dynamic_size,
        instead=_INSTEAD if _is_symbolic(module) else "",  # a layer in a branch, as of torch.cond
    )
    program, axes = captured.model, captured.axes.values()
    compiled = Compiled()
    ends: Sequence[Ends]
    if layers:
        compiled = _compiled(program, layers, opset, form, block)
        ends = compiled.ends
    else:
        targets = [name for name, layer in module.named_modules() if isinstance(layer, TargetLayer)]
        ends = ends_of_modules(program.graph, targets)
    name_ends(program)
    program.metadata_props[LAYERS] = boundaries_as_text(boundaries_in(program.graph, ends))
    _save(program, path)
    found = opset_of(path)
    if found != opset:
        raise ExportError(
            f"the network cannot be written with opset {opset}: the exporter gives {found}; "
            f"pass --opset {found}"
        )
    fixed_size, fixed_batch = dynamic_size and "width" not in axes, dynamic_batch and "batch" not in axes
    return Exported(
        "width" in axes,
        captured.reason if fixed_size else None,
        compiled,
        wrapper_prefix(model),
        "batch" in axes,
        captured.reason if fixed_batch else None,
        captured.assumptions,
    )


def _named(module: nn.Module, example: Tensor) -> dict[str, Layer]:
    try:
        return name_layers(module, example)
    except EXPORT_FAILURES as error:
        raise ExportError(f"the network cannot be run for the compiler: {_and_instead(error)}") from error


def _compiled(program: ir.Model, layers: Mapping[str, Layer], opset: int, form: str, block: int) -> Compiled:
    try:
        compiled = compile_graph(program, layers, form=form, block=block)
        with quiet():
            convert_version(program, opset, fallback=True)
    except EXPORT_FAILURES as error:
        raise ExportError(f"the graph cannot be compiled: {_and_instead(error)}") from error
    return compiled


def _and_instead(error: BaseException) -> str:
    return f"{type(error).__name__}: {explain(error, _INSTEAD)}"


def _is_symbolic(module: nn.Module) -> bool:
    return any(isinstance(layer, SymbolicLayer) for layer in module.modules())


def _has_symbolic() -> bool:
    return hasattr(torch.onnx, "ops") and hasattr(torch.onnx.ops, "symbolic")


_INSTEAD = "; the form conv2d may do"


def opset_of(path: Path) -> int:
    """The version of the standard operators that a file asks for."""
    model = onnx.load(path, load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _save(model: ir.Model, path: Path) -> None:
    """Write the file, the weights beside it where one file cannot hold them."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    beside = f"{path.name}.data" if weights > _PROTOBUF_LIMIT else None
    try:
        ir.save(model, path, external_data=beside)
    except OSError as error:
        raise OutputError(f"the graph cannot be written to {path}: {error.strerror}") from error
