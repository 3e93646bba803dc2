"""A network as torch exports it: the graph, and what that assumes of the input's sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.assumptions import Assumption, assumptions_of
from ceconv_convert.onnx.origin import note_modules
from ceconv_convert.onnx.quiet import quiet
from ceconv_convert.onnx.tidy import forget_defaults, forget_origin

EXPORT_FAILURES = (
    *(torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError, AttributeError, LookupError),
    AssertionError,
)
"""What torch's exporter raises; its own errors are RuntimeErrors, and it lets others through."""

_CURES = {
    "only 4D query, key, and value": "give scaled_dot_product_attention tensors of 4 axes, "
    "as q.unsqueeze(1) has, and take the axis off its result",
    "adaptive_avg_pool3d": "pool to a size of 1, or average the rotations first (GroupCosetAvgPool) and pool "
    "the image with adaptive_avg_pool2d",
    "adaptive_max_pool3d": "take the maximum over axes with amax, or pool the rotations first "
    "(GroupCosetMaxPool) and the image with a max pool of fixed size",
}
"""What to do instead, by what the exporter says."""
_NO_OPERATOR = re.compile(r"No ONNX function found for .*?op='([\w.]+)'")


@dataclass(frozen=True)
class Captured:
    """A graph as exported.

    Attributes:
        model: the graph.
        axes: the dynamic axes of the input, by position: ``batch``, ``height``, ``width``.
        assumptions: on these.
        reason: why axes that should be dynamic are not; None where all are.
    """

    model: ir.Model
    axes: Mapping[int, str]
    assumptions: tuple[Assumption, ...]
    reason: str | None = None


def capture(
    module: nn.Module, example: Tensor, opset: int, *, batch: bool, size: bool, instead: str = ""
) -> Captured:
    """Export with a dynamic batch, and dynamic height and width, or as much of that as torch can.

    Args:
        module: in eval mode.
        example: an input with a batch of at least 2: a batch of 1 would be taken for a constant.
        opset: of the graph.
        batch: whether to try a dynamic batch; a fixed one is 1.
        size: whether to try dynamic height and width; fixed ones are the example's.
        instead: what an error may suggest.

    Raises:
        ExportError: where torch cannot export the network at all.
    """
    reason, untraced = None, False
    attempts = [(batch, size), (batch, False), (False, size), (False, False)]
    for with_batch, with_size in dict.fromkeys(attempts):
        if batch and not with_batch and not untraced:
            break  # an operator without ONNX has none for a fixed batch either
        axes = {0: "batch"} if with_batch else {}
        if with_size:
            axes |= {example.dim() - 2: "height", example.dim() - 1: "width"}
        x = example if with_batch else example[:1]
        untraced = True
        try:
            program = _traced(module, x, axes)
            untraced = False
            assumptions = tuple(assumptions_of(program, axes))
            return Captured(_as_onnx(module, program, x, axes, opset), axes, assumptions, reason)
        except EXPORT_FAILURES as error:
            reason = reason or f"torch cannot export them as dynamic: {explain(error)}"
            last = error
    raise ExportError(f"torch cannot export the network: {explain(last, instead)}") from last


def explain(error: BaseException, instead: str = "") -> str:
    """What the exporter says, without its frame of advice: the innermost cause has it; and what helps.

    Args:
        error: the exporter's.
        instead: what may help where nothing else is known to.
    """
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = first_line(cause)
    missing = _NO_OPERATOR.search(said)
    cure = next((cure for mark, cure in _CURES.items() if mark in said), None)
    if missing is not None:
        return f"it has no ONNX operator for {missing[1]}: {cure or 'write that in other operators'}"
    return f"{said}{instead}" if cure is None else f"{said}: {cure}"


def _traced(module: nn.Module, x: Tensor, axes: Mapping[int, str]) -> torch.export.ExportedProgram:
    dynamic = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    with torch.no_grad(), quiet():
        return torch.export.export(
            module,
            (x,),
            dynamic_shapes=_in_place(module, dynamic),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,  # so that they can be read
        )


def _as_onnx(
    module: nn.Module, program: torch.export.ExportedProgram, x: Tensor, axes: Mapping[int, str], opset: int
) -> ir.Model:
    with torch.no_grad(), quiet():
        exported = torch.onnx.export(
            program,
            (x,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=_in_place(module, axes),  # the axes' names
            verbose=False,
        )
    if exported is None:
        raise ExportError("torch's exporter gave no program")
    note_modules(exported.model.graph)
    forget_origin(exported.model)
    forget_defaults(exported.model)
    return exported.model


def _in_place(module: nn.Module, axes: Mapping[int, Any]) -> tuple[Any, ...]:
    """The axes in the structure of ``forward``'s parameters: ``*inputs`` is a tuple of its own."""
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    variadic = first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL
    return ((dict(axes),),) if variadic else (dict(axes),)
