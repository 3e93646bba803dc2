"""A network as an ONNX file: exported, checked, judged, and with a note on where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from ceconv_convert.checkpoint import provenance
from ceconv_convert.errors import NothingToConvertError
from ceconv_convert.graph import Exported, SymbolicLayer, check_dtype, check_file, write_metadata, write_onnx
from ceconv_convert.judging import judge_onnx
from ceconv_convert.modules import AUTO, CIRCULAR, copy_model, replace_modules
from ceconv_convert.rewrite import PlanRow, convert, plan, replace_layers
from ceconv_convert.verification import Evidence, Verdict
from ceconv_convert.verification.evidence import Progress

COMPILED = (AUTO, "fourier")
"""Forms of ``.onnx`` files whose layers the graph compiler writes."""


def exportable(model: nn.Module, form: str) -> nn.Module:
    """What an ``.onnx`` file of that form is exported from: layers to be compiled, or converted ones.

    Layers that are circular already have the same weight in another layout, and are compiled too; a network
    that is converted otherwise stays what it is.
    """
    try:
        return _compilable(model, form) if form in COMPILED else convert(model, form)
    except NothingToConvertError:
        if not plan(model, form).converted:
            raise
        return model


def _compilable(model: nn.Module, form: str) -> nn.Module:
    found = copy_model(model)
    circular = [layer for layer in found.modules() if isinstance(layer, CIRCULAR)]
    found = replace_modules(found, {layer: SymbolicLayer(layer.to_spec()) for layer in circular})
    try:
        return replace_layers(found, SymbolicLayer, form, inplace=True)
    except NothingToConvertError:
        if not circular:
            raise
        return found


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

    Where it is wrong with dynamic image sizes, it is written with a fixed one.
    """
    exported, verdict = _write_and_judge(evidence, converted, path, form, opset, processor, progress)
    if verdict.passed:
        write_metadata(path, {provenance.KEY: provenance.as_text(record(verdict, exported))})
    return exported, verdict


def _write_and_judge(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    form: str,
    opset: int,
    processor: str | None,
    progress: Progress | None,
) -> tuple[Exported, Verdict]:
    check_dtype(evidence.dtype)
    example = evidence.inputs[1]  # a batch of 2
    dynamic = evidence.fixed_size is None
    write = partial(write_onnx, converted, path, example, opset=opset, form=form, processor=processor)
    exported = write(dynamic_size=dynamic)
    if not dynamic:
        exported = replace(exported, reason=f"the network takes no other size: {evidence.fixed_size}")
    check_file(path)
    judged = evidence if exported.dynamic_size else evidence.at_one_size()
    verdict = judge_onnx(judged, path, progress=progress)
    if exported.dynamic_size and not verdict.passed:
        # Some operators are exported for the example's size alone, without a word.
        again = write(dynamic_size=False)
        check_file(path)
        fixed = judge_onnx(evidence.at_one_size(), path, progress=progress)
        if fixed.passed:
            reason = f"since with dynamic ones the verdict fails: {verdict.problem}"
            return replace(again, reason=reason), fixed
    return exported, verdict
