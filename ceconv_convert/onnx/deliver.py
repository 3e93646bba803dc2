"""A network as an ONNX file: exported, checked and judged; and a note in it on where it comes from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from torch import nn

from ceconv_convert.conversion.convert import check_plan, replace_layers
from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.plan import PlanRow, plan_layers
from ceconv_convert.files import provenance
from ceconv_convert.files.system import name_of, writing
from ceconv_convert.forms.conv3d import DepthConv3d
from ceconv_convert.forms.table import AUTO, form_named
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.onnx.assumptions import Assumption, violations
from ceconv_convert.onnx.dialect import SymbolicLayer
from ceconv_convert.onnx.export import Exported, write_onnx
from ceconv_convert.onnx.judge_file import judge_onnx
from ceconv_convert.onnx.onnx_files import check_file
from ceconv_convert.onnx.passes.cost_models import CostModel
from ceconv_convert.onnx.runtime import OnnxRunner, check_dtype
from ceconv_convert.surgery import copy_model, replace_modules
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.judge import judge
from ceconv_convert.verification.shapes import Shape, as_text, fits
from ceconv_convert.verification.verdict import Verdict

_WRITTEN, _CHECKED = 60, 70
"""How much of a hundred parts of the time it takes to write a file, and to check its axes too."""
COMPILED = (AUTO, "fourier")
"""Forms of ``.onnx`` files whose layers the graph compiler writes."""


def exportable(model: nn.Module, form: str, found: Sequence[FoundLayer] | None = None) -> nn.Module:
    """What an ``.onnx`` file of that form is exported from: layers to be compiled, or converted ones.

    Layers that are circular already have the same weight in another layout, and are compiled too; a network
    that is converted otherwise stays what it is.
    """
    found = find_layers(model) if found is None else found
    network = copy_model(model)
    build = SymbolicLayer if form in COMPILED else form_named(form).build
    if form in COMPILED:
        circular = [layer for layer in network.modules() if isinstance(layer, DepthConv3d)]
        network = replace_modules(network, {layer: SymbolicLayer(layer.to_spec()) for layer in circular})
    if not found and any(isinstance(layer, TargetLayer) for layer in network.modules()):
        return network
    check_plan(plan_layers(network, found, form))
    return replace_layers(network, found, build)


def chosen_row(row: PlanRow, exported: Exported) -> PlanRow:
    """The row with the form that the compiler chose for it, if it did, and its bytes in the file."""
    names = {name.removeprefix(exported.prefix) for name in (row.name, *row.aliases)}
    forms = dict.fromkeys(choice.form for choice in exported.compiled.choices if choice.layer in names)
    size = sum(exported.bytes_of.get(name, 0) for name in names)
    form = ", ".join(forms) or row.form  # more than one where called more than once
    return replace(row, form=form, bytes_after=size or None)


def write_judged_onnx(
    evidence: Evidence,
    converted: nn.Module,
    path: Path,
    *,
    form: str,
    opset: int,
    costs: CostModel | None = None,
    static_batch: int | None = None,
    progress: Progress | None = None,
) -> tuple[Exported, Verdict]:
    """Write an ONNX file, check it, and judge it in ONNX Runtime; with a ``static_batch`` at that alone.

    Axes at whose sizes it is wrong are written as fixed ones. ``progress`` gets parts of a hundred.
    """
    progress = progress or (lambda done, total: None)
    check_dtype(evidence.dtype)
    fixed: Mapping[str, str] = {}
    if evidence.fixed_size is not None:
        fixed = {"size": f"the network takes no other size: {evidence.fixed_size}"}
    example = evidence.export_example
    if static_batch is not None:
        fixed, example = {"size": "", "batch": ""}, evidence.examples.input((static_batch, *evidence.shape))
    failed: tuple[Exported, Verdict] | None = None
    while True:
        exported = write_onnx(
            converted,
            path,
            example,
            opset=opset,
            fixed=fixed,
            form=form,
            costs=costs,
            static_batch=static_batch,
            progress=lambda done, total: progress(_WRITTEN * done // total, 100),
        )
        check_file(path)
        run = OnnxRunner(path)
        wrong = _wrong_axes(evidence, exported.assumptions, run, name_of(path))
        progress(_CHECKED, 100)
        if not wrong:
            verdict = judge_onnx(
                evidence,
                path,
                run,
                progress=lambda done, total: progress(_CHECKED + (100 - _CHECKED) * done // total, 100),
            )
            if verdict.passed:
                return exported, verdict
            failed = failed or (exported, verdict)
            wrong = _suspected_axes(verdict, exported.fixed)
        new = {axis: reason for axis, reason in wrong.items() if axis not in exported.fixed}
        if not new:
            return failed or (exported, judge_onnx(evidence, path, run))
        fixed = {**exported.fixed, **{axis: f"since with a dynamic {axis} {new[axis]}" for axis in new}}


def note_record(path: Path, record: provenance.Record, key: str = provenance.KEY) -> None:
    """Note in an ONNX file where it comes from; OutputError where it cannot be written."""
    note = onnx.ModelProto()
    onnx.helper.set_model_props(note, {key: provenance.as_text(record)})
    with writing(path), path.open("ab") as file:
        file.write(note.SerializeToString())  # what is appended to a protobuf is merged into it


def _wrong_axes(
    evidence: Evidence, assumptions: Sequence[Assumption], run: OnnxRunner, name: str
) -> dict[str, str]:
    """The axes of the first assumption that fails where the network runs and the file is wrong, and how."""
    tried: list[Shape] = []
    for assumption in assumptions:
        if any(not assumption.holds(_sizes(shape)) for shape in tried):
            continue
        found = violations(assumption, _sizes((1, *evidence.small)), assumptions)
        shapes = ((s["batch"], *evidence.shape[:-2], s["height"], s["width"]) for s in found)
        example = next(evidence.examples.running(*(s for s in shapes if fits(s, run.shape))), None)
        if example is None:
            continue
        shape = tuple(example.input.shape)
        tried.append(shape)
        there = replace(evidence, random=(example,), user=(), labels=None)
        problem = judge(there, run, name).problem
        if problem is not None:
            reason = f"it is wrong unless {assumption}: at {as_text(shape)} {problem}"
            return {"batch" if axis == "batch" else "size": reason for axis in assumption.axes}
    return {}


def _sizes(shape: Shape) -> dict[str, int]:
    return {"batch": shape[0], "height": shape[-2], "width": shape[-1]}


def _suspected_axes(verdict: Verdict, fixed: Collection[str]) -> dict[str, str]:
    """The axis that may be why a verdict fails: torch exports some operators for one size, without a word.

    It is none where a layer is wrong by itself. It is the batch where one size passes and fails, and no batch
    does; else the size first.
    """
    if any(check.problem for check in verdict.layers):
        return {}
    passed = {case.shape for case in verdict.cases if case.measure.problem is None}
    failed = {case.shape for case in verdict.cases} - passed
    by_batch = {shape[1:] for shape in passed} & {shape[1:] for shape in failed}
    by_size = {shape[0] for shape in passed} & {shape[0] for shape in failed}
    axis = "batch" if by_batch and ("size" in fixed or not by_size) else "size"
    return {axis: f"the verdict fails: {verdict.problem}"}
