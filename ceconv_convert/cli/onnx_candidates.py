"""ONNX files as candidates: exported from the original and judged, or one that exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from ceconv_convert.cli.context import Candidate, RunContext, print_plan
from ceconv_convert.conversion.plan import PlanRow, aligned_lines, bytes_as_text
from ceconv_convert.files.system import name_of
from ceconv_convert.onnx.deliver import COMPILED, chosen_row, exportable, note_record
from ceconv_convert.onnx.passes.choose import choices_as_lines
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.onnx.runtime import CONVOLVED, OnnxRunner
from ceconv_convert.rounding.deliver_rounded import Rounding, judge_existing, write_in_precision
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.verdict import Verdict


def export_all(context: RunContext, files: Mapping[Path, Path]) -> list[Candidate]:
    """Write every ``.onnx`` output to the path where it is staged."""
    context = _in_convolved_dtype(context, *files)
    return [_export(context, output, staged) for output, staged in files.items()]


def judge_one(context: RunContext, path: Path) -> Candidate:
    """Judge a file that exists."""
    context = _in_convolved_dtype(context, path)
    evidence, found, most = context.evidence, context.found, context.job.max_drop
    with context.terminal.progress(f"judging {name_of(path)}") as progress:
        verdict = judge_existing(evidence, context.model, found, path, max_drop=most, progress=progress)
    _print_noise(context, verdict)
    return Candidate(verdict, _runner(path, evidence))


def _in_convolved_dtype(context: RunContext, *files: Path) -> RunContext:
    """In float32, if ONNX Runtime does not convolve in the model's dtype; a line on each of ``files``."""
    evidence, terminal, precision = context.evidence, context.terminal, context.job.precision
    if evidence.dtype in (CONVOLVED if precision == "exact" else CONVOLVED[:1]):
        return context
    reason = f"since ONNX Runtime's CPU provider does not convolve in {str(evidence.dtype)[6:]}"
    reason = reason if precision == "exact" else f"before it is rounded to {precision}"
    for file in files:
        terminal.line(f"{file}: in float32, {reason}")
    with terminal.progress("running the original in float32"):
        model = copy_model(context.model).float()
        single = gather(
            model,
            evidence.shape,
            found=context.found,
            seed=context.job.seed,
            data=evidence.images,
            labels=evidence.labels,
        )
    return replace(context, model=model, evidence=single)


def _export(context: RunContext, output: Path, staged: Path) -> Candidate:
    """Write an ``.onnx`` output."""
    job, evidence, form = context.job, context.evidence, context.job.onnx_form
    wanted = None
    if job.precision != "exact":
        wanted = Rounding(job.precision, context.calibration, job.max_drop, job.processor, job.target)
    notes: list[str] = []
    with context.terminal.progress("exporting to ONNX and running it") as progress:
        costs = cost_model(job.processor, precision=job.precision, runtime=job.target)
        network = exportable(context.model, form, context.found)
        exported, verdict = write_in_precision(
            evidence,
            network,
            staged,
            wanted,
            form=form,
            opset=job.opset,
            costs=costs,
            static_batch=context.static_batch,
            progress=progress,
        )
        if verdict.passed:
            note_record(staged, context.record(verdict, form, exported))
    if context.plan.rows and (job.module_form is None or form in COMPILED):
        plan = tuple(chosen_row(row, exported) for row in context.plan)
        print_plan(replace(context.plan, form=form, rows=plan), context.terminal)
        notes += _why_larger(context, staged, plan) if verdict.passed else []
    notes += [*exported.notes, *choices_as_lines(exported.compiled.choices)]
    if "size" in exported.fixed and any(user.input.shape[1:] != evidence.shape for user in evidence.user[:1]):
        notes.append("not judged on the user's inputs, which are of another size")
    for note in notes:
        context.terminal.line(f"{output}: {note}")
    _print_noise(context, verdict)
    return Candidate(verdict, _runner(staged, evidence), exported=exported)


def _print_noise(context: RunContext, verdict: Verdict) -> None:
    """The layers of a rounded file."""
    if verdict.rounded is not None:
        rows, layers = verdict.rounded.rows(), verdict.rounded.layers
        lines = aligned_lines(rows, rows[0][2:5])
        context.terminal.table(lines, ("red" if layer.problem else "" for layer in layers))


_WHY_LARGER = {
    "conv2d": "conv2d has a layer's weights once for each rotation",
    "fourier": "fourier has about 3N/2 of them for a layer's N",
}


def _why_larger(context: RunContext, staged: Path, rows: Sequence[PlanRow]) -> list[str]:
    """A line where a file is larger than the one that it is made from."""
    before, after = context.source.path.stat().st_size, staged.stat().st_size
    reasons = [why for form, why in _WHY_LARGER.items() if any(form in (row.form or "") for row in rows)]
    if any(row.kind == "separable" for row in rows):
        reasons.append("the two factors of separable layers are multiplied")
    if after <= before or not reasons:
        return []
    return [f"larger than {context.source.path.name} ({bytes_as_text(before)}): {'; '.join(reasons)}"]


def _runner(path: Path, evidence: Evidence) -> Callable[[Tensor], object]:
    """What runs a file; loaded once it runs, for a report's curves."""
    load = cache(partial(OnnxRunner, path))
    return lambda x: load()(x.to(evidence.dtype))
