"""A network as an ONNX file: exported, checked, judged, and with a note on where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ceconv_convert.conversion.convert import replace_layers
from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.plan import plan_layers
from ceconv_convert.conversion.plan_table import PlanRow
from ceconv_convert.errors import NothingToConvertError
from ceconv_convert.files import provenance
from ceconv_convert.forms.conv3d import DepthConv3d
from ceconv_convert.forms.table import AUTO, form_named
from ceconv_convert.onnx.check import check_file
from ceconv_convert.onnx.dialect import SymbolicLayer
from ceconv_convert.onnx.export import Exported, write_onnx
from ceconv_convert.onnx.judge_file import Wrong, judge_onnx, wrong_sizes
from ceconv_convert.onnx.metadata import write_metadata
from ceconv_convert.onnx.runtime import check_dtype
from ceconv_convert.surgery import copy_model, replace_modules
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.verdict import Verdict

COMPILED = (AUTO, "fourier")
"""Forms of ``.onnx`` files whose layers the graph compiler writes."""


def exportable(model: nn.Module, form: str, found: Sequence[FoundLayer] | None = None) -> nn.Module:
    """What an ``.onnx`` file of that form is exported from: layers to be compiled, or converted ones.

    Layers that are circular already have the same weight in another layout, and are compiled too; a network
    that is converted otherwise stays what it is.
    """
    found = find_layers(model) if found is None else found
    try:
        if form in COMPILED:
            return _compilable(model, found, form)
        return replace_layers(model, found, form_named(form).build, form)
    except NothingToConvertError:
        if not plan_layers(model, found, form).converted:
            raise
        return model


def _compilable(model: nn.Module, found: Sequence[FoundLayer], form: str) -> nn.Module:
    copy = copy_model(model)
    circular = [layer for layer in copy.modules() if isinstance(layer, DepthConv3d)]
    copy = replace_modules(copy, {layer: SymbolicLayer(layer.to_spec()) for layer in circular})
    try:
        return replace_layers(copy, found, SymbolicLayer, form, inplace=True)
    except NothingToConvertError:
        if not circular:
            raise
        return copy


def chosen_row(row: PlanRow, exported: Exported) -> PlanRow:
    """The row with the form that the compiler chose for it, if it did."""
    chosen = exported.compiled.choices
    for name in (row.name, *row.aliases):
        inside = name.removeprefix(exported.prefix)
        forms = dict.fromkeys(choice.form for choice in chosen if choice.layer == inside)
        if forms:  # more than one where it is called more than once
            return replace(row, form=", ".join(forms))
    return row


def write_judged_onnx(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    *,
    form: str,
    opset: int,
    processor: str | None = None,
    record: Callable[[Verdict, Exported], provenance.Record],
    progress: Progress | None = None,
) -> tuple[Exported, Verdict]:
    """Write an ONNX file, check it, judge it in ONNX Runtime, and note in it where it comes from.

    Axes at whose sizes it is wrong are written as fixed ones.
    """
    check_dtype(evidence.dtype)
    axes = Axes(evidence.fixed_size is None, f"the network takes no other size: {evidence.fixed_size}")
    failed: tuple[Exported, Verdict] | None = None
    while True:
        exported = axes.noted(
            write_onnx(
                converted,
                path,
                evidence.inputs[1],  # a batch of 2
                opset=opset,
                dynamic_size=axes.size,
                dynamic_batch=axes.batch,
                form=form,
                processor=processor,
            )
        )
        check_file(path)
        axes = replace(axes, size=exported.dynamic_size, batch=exported.dynamic_batch)
        wrong = wrong_sizes(evidence, exported.assumptions, path)
        if wrong is None:
            verdict = judge_onnx(evidence, path, progress=progress)
            if verdict.passed:
                write_metadata(path, {provenance.KEY: provenance.as_text(record(verdict, exported))})
                return exported, verdict
            failed = failed or (exported, verdict)
            wrong = _suspects(axes, verdict)
        if not axes.dynamic & wrong.axes:
            return failed or (exported, judge_onnx(evidence, path))
        axes = axes.without(wrong)


@dataclass(frozen=True)
class Axes:
    """Which axes of a file's input are dynamic, and why others are not.

    Attributes:
        size: height and width.
        size_reason: why they are not, where they are not.
        batch: the batch.
        batch_reason: likewise.
    """

    size: bool = True
    size_reason: str = ""
    batch: bool = True
    batch_reason: str = ""

    @property
    def dynamic(self) -> frozenset[str]:
        """By name."""
        return frozenset((*(("height", "width") if self.size else ()), *(("batch",) if self.batch else ())))

    def without(self, wrong: Wrong) -> Axes:
        """With the axes fixed at whose sizes a file was wrong."""
        axes = self
        if self.size and wrong.axes & {"height", "width"}:
            axes = replace(axes, size=False, size_reason=f"since with dynamic ones {wrong.why}")
        if self.batch and "batch" in wrong.axes:
            axes = replace(axes, batch=False, batch_reason=f"since with a dynamic one {wrong.why}")
        return axes

    def noted(self, exported: Exported) -> Exported:
        """What was written, with the reasons that are known."""
        return replace(
            exported,
            reason=exported.reason if self.size else self.size_reason,
            batch_reason=exported.batch_reason if self.batch else self.batch_reason,
        )


def _suspects(axes: Axes, verdict: Verdict) -> Wrong:
    """The axes that a failed verdict may be due to: some operators are exported for one size, without a word.

    A layer that is wrong by itself is due to none. Where batches of one size pass and fail, and sizes of one
    batch do not, it is the batch; else the size first.
    """
    why = f"the verdict fails: {verdict.problem}"
    passed = {case.shape for case in verdict.cases if case.measure.problem is None}
    failed = {case.shape for case in verdict.cases} - passed
    batches = {shape[1:] for shape in passed} & {shape[1:] for shape in failed}
    sizes = {shape[0] for shape in passed} & {shape[0] for shape in failed}
    if any(check.problem for check in verdict.layers):
        return Wrong(frozenset(), why)
    if axes.batch and batches and not sizes:
        return Wrong(frozenset({"batch"}), why)
    if axes.size:
        return Wrong(frozenset({"height", "width"}), why)
    return Wrong(frozenset({"batch"} if batches else ()), why)
