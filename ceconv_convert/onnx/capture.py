"""A network as torch exports it: the graph, and what that assumes of the input's sizes."""

import gc
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.assumptions import Assumption, assumptions_of
from ceconv_convert.verification.evidence import Progress

EXPORT_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What torch's exporter raises; its own errors are RuntimeErrors, and it lets others through."""

_CURES = {
    "only 4D query, key, and value": "give scaled_dot_product_attention tensors of 4 axes, "
    "as q.unsqueeze(1) has, and take the axis off its result",
    "adaptive_avg_pool3d": "pool to a size of 1, or average the rotations first (GroupCosetAvgPool) and pool "
    "the image with adaptive_avg_pool2d",
    "adaptive_max_pool3d": "take the maximum over axes with amax, or pool the rotations first "
    "(GroupCosetMaxPool) and the image with a max pool of fixed size",
}
"""What to do instead, by a part of the exporter's message."""
_NO_OPERATOR = re.compile(r"No ONNX function found for .*?op='([\w.]+)'")


@dataclass(frozen=True)
class Captured:
    """A graph as exported, why ``batch`` or ``size`` is fixed, and what it assumes of dynamic axes."""

    model: ir.Model
    fixed: Mapping[str, str]
    assumptions: tuple[Assumption, ...]


def capture(
    module: nn.Module,
    example: Tensor,
    opset: int,
    *,
    fixed: Mapping[str, str],
    batch: int = 1,
    hint: str = "",
    progress: Progress | None = None,
) -> Captured:
    """Export a module in eval mode with a dynamic batch, height and width, or as much of that as torch can.

    The example's batch is at least 2: a batch of 1 would be taken for a constant. ``fixed`` says why the
    batch is ``batch``, or the ``size`` the example's; ``hint`` ends an error of unknown cause. ``progress``
    gets quarters of an export.

    Raises:
        ExportError: where torch cannot export the network at all.
    """
    progress = progress or (lambda done, total: None)
    reason, program = "", None
    attempts = (("batch", "size"), ("batch",), ("size",), ())
    for dynamic in dict.fromkeys(tuple(axis for axis in found if axis not in fixed) for found in attempts):
        if program is not None and "batch" not in (*dynamic, *fixed):
            break  # an operator without ONNX has none for a fixed batch either
        x = example if "batch" in dynamic else example[:batch]
        axes = {0: "batch"} if "batch" in dynamic else {}
        if "size" in dynamic:
            axes |= {x.dim() - 2: "height", x.dim() - 1: "width"}
        kept = {axis: fixed.get(axis, reason) for axis in ("size", "batch") if axis not in dynamic}
        program = None
        try:
            program = traced(module, x, axes)
            progress(1, 4)
            assumptions = tuple(assumptions_of(program, axes))
            graph = _as_onnx(module, program, x, axes, opset)
            progress(3, 4)
            return Captured(graph, kept, assumptions)
        except EXPORT_FAILURES as error:
            reason = reason or f"torch cannot export them as dynamic: {explain(error)}"
            last = error
    raise ExportError(f"torch cannot export the network: {explain(last, hint)}") from last


def explain(error: BaseException, hint: str = "") -> str:
    """The innermost cause of an exporter's error, without the frame of advice around it, and what helps."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    message = first_line(cause)
    missing = _NO_OPERATOR.search(message)
    cure = next((cure for part, cure in _CURES.items() if part in message), None)
    if missing is not None:
        return f"it has no ONNX operator for {missing[1]}: {cure or 'write that in other operators'}"
    return f"{message}{hint}" if cure is None else f"{message}: {cure}"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: an export makes many objects and little garbage, and takes a third less."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow the exporter's prints, warnings and log records.

    It makes its loggers on first use, so that only the switch for all of them catches these.
    """
    before, output = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def traced(module: nn.Module, x: Tensor, axes: Mapping[int, Any]) -> torch.export.ExportedProgram:
    """A module in eval mode by ``torch.export``, with those axes of its input dynamic."""
    with torch.no_grad(), quiet(), _uncollected():
        return torch.export.export(
            module,
            (x,),
            dynamic_shapes=_as_parameters(module, dict.fromkeys(axes, torch.export.Dim.DYNAMIC)),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,  # so that they can be read
        )


def _as_onnx(
    module: nn.Module, program: torch.export.ExportedProgram, x: Tensor, axes: Mapping[int, str], opset: int
) -> ir.Model:
    shapes = _as_parameters(module, axes)
    with torch.no_grad(), quiet(), _uncollected():
        exported = torch.onnx.export(
            program, (x,), dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False
        )
    if exported is None:
        raise ExportError("torch's exporter gave no program")
    for node in exported.model.graph:
        attribute = node.attributes.get("noop_with_empty_axes")
        if attribute is not None and not attribute.as_int():  # the default; older opsets lack the attribute
            del node.attributes["noop_with_empty_axes"]
    return exported.model


def _as_parameters(module: nn.Module, axes: Mapping[int, Any]) -> tuple[Any, ...]:
    """The axes in the structure of ``forward``'s parameters: ``*inputs`` is a tuple of its own."""
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    variadic = first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL
    return ((dict(axes),),) if variadic else (dict(axes),)
