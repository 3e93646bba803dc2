"""A run from end to end: what is read, what is printed, and outputs that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from ceconv_convert.bench.measure import Bench
from ceconv_convert.checkpoint.container import is_checkpoint
from ceconv_convert.checkpoint.load import build_network
from ceconv_convert.cli.benchmark import check_bench, run_bench
from ceconv_convert.cli.files_read import files_read
from ceconv_convert.cli.job import Candidates, Job, Session
from ceconv_convert.cli.work import convert_and_write, verify_only
from ceconv_convert.conversion.convert import check_plan
from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.plan import plan_layers
from ceconv_convert.errors import OutputError
from ceconv_convert.files.interruption import signals_held
from ceconv_convert.files.source import Source, read_source, sha256_of
from ceconv_convert.files.staging import Staging, check_outputs
from ceconv_convert.files.system import name_of
from ceconv_convert.report.data import make_report
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.report.write import write_report
from ceconv_convert.user_inputs.read import read_inputs
from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.hue_sweep import hue_circle
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.verdict import Verdict, verdict_as_line, verdict_in_full


def run(job: Job, terminal: Terminal, written: list[Path]) -> bool:
    """Do it; whether the verdict passed.

    Args:
        job: what was asked for.
        terminal: where it is printed.
        written: takes the outputs and reports, once they are in place.

    Raises:
        ConversionError: where it cannot be done; nothing is written then.
    """
    read = () if job.dry_run else files_read(job)
    if not job.dry_run:
        check_outputs((*job.outputs, *job.reports), read, force=job.force)
    with terminal.progress(f"reading {job.model.name}"):
        source = read_source(job.model, job.allow, unsafe=job.unsafe)
        _check_forms(job, source)
        model = build_network(source, model=job.factory, arguments=job.arguments)
    found = find_layers(model)
    layers = plan_layers(model, found, job.planned_form)
    if layers.rows and job.converted is None:
        terminal.plan(layers)
    if layers.rows or not (layers.converted and job.only_exports):
        check_plan(layers)
    if job.dry_run:
        return True
    session = Session(job, source, model, found, layers, _gather(job, model, found, terminal))
    if job.bench is not None:
        check_bench(job.bench, session.evidence.dtype)
    work = convert_and_write if job.converted is None else verify_only
    with Staging(read, force=job.force) as staging:
        verdicts, candidates = work(session, staging, terminal)
        passed = all(verdicts)
        bench = run_bench(session, job.bench, terminal) if passed and job.bench is not None else None
        if not passed:
            staging.discard()
        if job.reports:
            with terminal.progress("writing the report"):
                _write_reports(session, verdicts, candidates, bench, staging)
        with signals_held():
            staging.commit()
            written += (*(job.outputs if passed else ()), *job.reports)
    for output in written:
        terminal.wrote(output)
    terminal.verdict(*verdicts)
    return passed


def _gather(job: Job, model: nn.Module, layers: Sequence[FoundLayer], terminal: Terminal) -> Evidence:
    data = labels = None
    if job.inputs is not None:
        size = None if job.input_shape is None else (job.input_shape[-2], job.input_shape[-1])
        with terminal.progress(f"reading {job.inputs.name}"):
            found = read_inputs(job.inputs, size)
        data, labels = found.images, found.labels
    with terminal.progress("running the original and the reference") as progress:
        evidence = gather(
            model,
            job.input_shape,
            found=layers,
            seed=job.seed,
            data=data,
            labels=labels,
            progress=progress,
        )
    if job.input_shape is not None and job.input_shape != evidence.shape:
        terminal.line(f"{as_text(job.input_shape)} is a batch of 1: an input is {as_text(evidence.shape)}")
    for line in evidence.explain():
        terminal.line(line)
    return evidence


def _write_reports(
    session: Session,
    verdicts: list[Verdict],
    found: Candidates,
    bench: Bench | None,
    staging: Staging,
) -> None:
    passed = all(verdicts)
    report = make_report(
        session.record(None, exported=found.exported if session.job.module_form is None else None),
        verdict_as_line(*verdicts),
        passed,
        session.evidence.explain(),
        [verdict_in_full(verdict) for verdict in verdicts],
        [
            {"name": name_of(output), "bytes": staged.stat().st_size, "sha256": sha256_of([staged])}
            for output in (session.job.outputs if passed else ())
            for staged in [staging.staged(output)]
        ],
        hue_circle(session.evidence, found.runs, found.networks),
        None if bench is None else asdict(bench),
    )
    for path in session.job.reports:
        write_report(report, staging.path_for(path))


def _check_forms(job: Job, source: Source) -> None:
    kept = [output for output in job.outputs if output.suffix not in (".safetensors", ".onnx")]
    if kept and job.module_form != "conv3d" and is_checkpoint(source) and not job.dry_run:
        raise OutputError(
            f"{kept[0]} would be a checkpoint in the form {job.planned_form}, and they are kept in conv3d "
            "alone: give a .safetensors or .onnx output"
        )
