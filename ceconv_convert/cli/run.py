"""A run from end to end: what is read, what is printed, and outputs that appear together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ceconv_convert.checkpoint.container import is_checkpoint
from ceconv_convert.checkpoint.load import build_network
from ceconv_convert.cli.candidates import convert_run, verify_run
from ceconv_convert.cli.context import Candidate, RunContext, print_plan
from ceconv_convert.cli.options import ONNX_SUFFIX, PROGRAM_SUFFIX, WEIGHTS_SUFFIX, Job
from ceconv_convert.conversion.convert import check_plan
from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.plan import bytes_as_text, plan_layers
from ceconv_convert.errors import OutputError
from ceconv_convert.files.source import files_of, read_source, sha256_of
from ceconv_convert.files.staging import Staging, check_outputs, signals_held
from ceconv_convert.files.system import name_of
from ceconv_convert.forms.table import AUTO
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.report.write import make_report, write_report
from ceconv_convert.rounding.calibration import split_images
from ceconv_convert.user_inputs import read_inputs
from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.hue_sweep import hue_circle
from ceconv_convert.verification.shapes import Data, as_text, static_shape
from ceconv_convert.verification.verdict import verdict_as_lines

if TYPE_CHECKING:
    from ceconv_convert.bench.measure import Bench


def run(job: Job, terminal: Terminal, written: list[Path]) -> bool:
    """Do the job; whether the verdict passed.

    Args:
        job: what to do.
        terminal: where to print.
        written: gets the outputs and reports, once they are in place.

    Raises:
        ConversionError: where it cannot be done; nothing is written then.
    """
    read: tuple[Path, ...] = ()
    if not job.dry_run:
        read = _files_read(job)
        check_outputs((*job.outputs, *job.reports), read, force=job.force)
    with terminal.progress(f"reading {job.model.name}"):
        source = read_source(job.model, job.allow, unsafe=job.unsafe)
        kept = [
            output for output in job.module_outputs if output.suffix not in (WEIGHTS_SUFFIX, PROGRAM_SUFFIX)
        ]
        if kept and job.module_form != "conv3d" and is_checkpoint(source) and not job.dry_run:
            raise OutputError(
                f"{kept[0]} would be a checkpoint in the form {job.module_form}: checkpoints take conv3d "
                "only, so write .safetensors or .onnx"
            )
        model = build_network(source, model=job.factory, arguments=dict(job.arguments))
    found = find_layers(model)
    batch = None
    if job.static:
        batch, shape = static_shape(job.input_shape, (layer.reading for layer in found))
        job = replace(job, input_shape=shape)
    plan = plan_layers(model, found, job.module_form or AUTO)
    only_exports = job.outputs and job.module_form is None and not (job.dry_run or job.bench)
    if plan.rows and not job.verify_only and (plan.refused or not only_exports):
        print_plan(plan, terminal)
    if plan.rows or not (plan.converted and only_exports):  # a converted network is exported as it is
        check_plan(plan)
    if job.dry_run:
        return True
    evidence, calibration = _gather(job, model, found, terminal)
    context = RunContext(job, terminal, source, model, found, plan, evidence, calibration, batch)
    bench = None
    if job.bench:
        from ceconv_convert.cli.bench_run import bench_provider, run_bench

        provider = bench_provider(context)
    with Staging(read, force=job.force) as staging:
        converted = job.converted  # before this run
        candidates = convert_run(context, staging) if converted is None else verify_run(context, converted)
        verdicts = [candidate.verdict for candidate in candidates]
        passed = all(verdicts)
        if passed and job.bench:
            bench = run_bench(context, provider)
        if not passed:
            staging.discard()
        if job.reports:
            with terminal.progress("writing the report"):
                _write_reports(context, candidates, bench, staging)
        with signals_held():
            staging.commit()
            written += (*(job.outputs if passed else ()), *job.reports)
    for output in written:
        terminal.line(f"wrote {output} ({bytes_as_text(output.stat().st_size)})")
    first, *details = verdict_as_lines(*verdicts)
    terminal.line(first, "green" if passed else "bold red", always=True)
    for detail in details:
        terminal.line(f"  {detail}")
    return passed


def _files_read(job: Job) -> tuple[Path, ...]:
    """Every file that the run reads, none of which is overwritten: shards, an ONNX file's weights, images.

    Raises:
        UnreadableInputError: where one that is named is missing, or no regular file.
    """
    files = files_of(job.model)
    if job.converted is not None:
        if job.converted.suffix == ONNX_SUFFIX:
            from ceconv_convert.onnx.onnx_files import onnx_files

            files += onnx_files(job.converted)
        else:
            files += files_of(job.converted)
    if job.inputs is not None and job.inputs.is_dir():
        files += (*job.inputs.glob("*"), *job.inputs.glob("*/*"))  # no deeper: links may lead in a circle
    elif job.inputs is not None and job.inputs.exists():  # its reader says what is missing
        files += files_of(job.inputs)
    return files


def _gather(
    job: Job, model: nn.Module, found: Sequence[FoundLayer], terminal: Terminal
) -> tuple[Evidence, Tensor | None]:
    """With the images to calibrate on, which are no evidence."""
    data: Data | None = None
    labels = calibration = None
    if job.inputs is not None:
        size = None if job.input_shape is None else (job.input_shape[-2], job.input_shape[-1])
        with terminal.progress(f"reading {job.inputs.name}"):
            inputs = read_inputs(job.inputs, size)
        data, labels = inputs.images, inputs.labels  # read batch by batch
        if job.precision == "int8" and job.onnx_outputs:
            split = split_images(inputs.images.tensor(), labels, seed=job.seed, source=name_of(job.inputs))
            calibration, data, labels = split.calibration, split.judging, split.labels
    with terminal.progress("running the original and the reference") as progress:
        evidence = gather(
            model, job.input_shape, found=found, seed=job.seed, data=data, labels=labels, progress=progress
        )
    if job.input_shape is None and job.inputs is None:
        terminal.line(
            f"input shape: {as_text(evidence.shape)}, since none is given: say another with --input-shape"
        )
    elif job.input_shape is not None and job.input_shape != evidence.shape:
        terminal.line(f"{as_text(job.input_shape)} is a batch of 1: an input is {as_text(evidence.shape)}")
    for line in evidence.explain():
        terminal.line(line)
    if calibration is not None:
        terminal.line(f"calibrated on {len(calibration)} further images, which nothing is judged on")
    return evidence, calibration


def _write_reports(
    context: RunContext, candidates: Sequence[Candidate], bench: Bench | None, staging: Staging
) -> None:
    job, verdicts = context.job, [candidate.verdict for candidate in candidates]
    outputs = []
    for output in job.outputs if all(verdicts) else ():
        staged = staging.staged(output)
        size, digest = staged.stat().st_size, sha256_of([staged])
        outputs.append({"name": name_of(output), "bytes": size, "sha256": digest})
    networks = {candidate.verdict.candidate: candidate.network for candidate in candidates}
    report = make_report(
        context.record(None, exported=candidates[-1].exported if job.module_form is None else None),
        basis=context.evidence.explain(),
        verdicts=verdicts,
        outputs=outputs,
        hue=hue_circle(context.evidence, networks),
        bench=None if bench is None else asdict(bench),
    )
    for path in job.reports:
        write_report(report, staging.path_for(path))
