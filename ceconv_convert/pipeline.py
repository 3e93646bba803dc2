"""One run of the command line: load, plan, convert, verify, write; or verify what is written already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from ceconv_convert.api import judge_onnx, write_judged_onnx
from ceconv_convert.checkpoint import (
    Migrated,
    Source,
    Staging,
    build_candidate,
    build_network,
    check_not_input,
    check_output,
    check_same,
    is_checkpoint,
    migrate_content,
    provenance,
    read_inputs,
    read_source,
    real_path,
    save_migrated,
    save_module,
    save_tensors,
    sha256_of,
)
from ceconv_convert.errors import OutputError
from ceconv_convert.graph import CONVOLVED, DEFAULT_OPSET, OnnxRunner
from ceconv_convert.modules import FORMS, copy_model
from ceconv_convert.report import make_report, write_report
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.rewrite import Plan, check_plan, convert, plan, row_as_data
from ceconv_convert.verification import (
    Evidence,
    Outputs,
    Verdict,
    gather,
    hue_circle,
    judge_module,
    run_module,
    verdict_as_line,
    verdict_in_full,
    verdict_summary,
)


@dataclass(eq=False)
class Candidates:
    """What was judged, and can be run again: everything that gives outputs, and the modules among it."""

    runs: dict[str, Callable[[Tensor], Outputs]] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)

    def add(self, name: str, network: nn.Module) -> None:
        """A module."""
        self.networks[name] = network.eval()
        self.runs[name] = partial(run_module, self.networks[name])


@dataclass(frozen=True)
class Job:
    """What the user asked for."""

    model: Path
    outputs: tuple[Path, ...]
    form: str = "conv3d"
    input_shape: tuple[int, ...] | None = None
    opset: int | None = None
    allow: tuple[str, ...] = ()
    factory: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    unsafe: bool = False
    dry_run: bool = False
    force: bool = False
    converted: Path | None = None
    reports: tuple[Path, ...] = ()
    inputs: Path | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Session:
    """What a run works with, once the original is read and has run.

    Attributes:
        job: what was asked for.
        source: the file that it comes from.
        model: the original.
        layers: the plan.
        evidence: what candidates are judged by.
    """

    job: Job
    source: Source
    model: nn.Module
    layers: Plan
    evidence: Evidence

    def record(self, verdict: Verdict | None) -> provenance.Record:
        """The provenance of an output, or of a report."""
        rows = map(row_as_data, self.layers.convertible)
        summary = None if verdict is None else verdict_summary(verdict)
        name, sha256 = self.source.path.name, self.source.sha256
        return provenance.record(name, sha256, self.layers.form, rows, summary)


def run(job: Job, terminal: Terminal) -> bool:
    """Do it; whether the verdict passed.

    Raises:
        ConversionError: where it cannot be done.
    """
    if not job.dry_run:
        _check_outputs(job)
    with terminal.progress(f"reading {job.model.name}"):
        source = read_source(job.model, job.allow, unsafe=job.unsafe)
        _check_forms(job, source)
        model = build_network(source, model=job.factory, arguments=job.arguments)
    layers = plan(model, job.form)
    if layers.rows:
        terminal.plan(layers)
    check_plan(layers)
    if job.dry_run:
        return True
    session = Session(job, source, model, layers, _gather(job, model, terminal))
    work = _convert if job.converted is None else _verify_only
    with Staging(force=job.force) as staging, Staging(force=job.force) as reports:
        verdicts, found = work(session, staging, terminal)
        passed = all(verdicts)
        if passed:
            staging.commit()
        if job.reports:
            with terminal.progress("writing the report"):
                _write_reports(session, verdicts, found, reports)
    for output in (*(job.outputs if passed else ()), *job.reports):
        terminal.wrote(output)
    terminal.verdict(*verdicts)
    return passed


def _gather(job: Job, model: nn.Module, terminal: Terminal) -> Evidence:
    data = labels = None
    if job.inputs is not None:
        size = None if job.input_shape is None else (job.input_shape[-2], job.input_shape[-1])
        with terminal.progress(f"reading {job.inputs.name}"):
            found = read_inputs(job.inputs, size)
        data, labels = found.images, found.labels
    with terminal.progress("running the original and the referee") as progress:
        evidence = gather(model, job.input_shape, seed=job.seed, data=data, labels=labels, progress=progress)
    for line in evidence.explain():
        terminal.line(line)
    return evidence


def _convert(session: Session, staging: Staging, terminal: Terminal) -> tuple[list[Verdict], Candidates]:
    job = session.job
    with terminal.progress("converting") as progress:
        network = convert(session.model, job.form, progress=progress)
        migrated = _migrate(session, network)
    candidate = f"the {job.form} network"
    with terminal.progress(f"judging {candidate}") as progress:
        verdicts = [judge_module(session.evidence, network, candidate, progress=progress)]
    found = Candidates()
    found.add(candidate, copy_model(network))
    for output in job.outputs if verdicts[0].passed else ():
        staged = staging.path_for(output)
        if output.suffix == ".onnx":
            verdicts.append(_export(session, network, output, staged, terminal))
            if session.evidence.dtype in CONVOLVED:
                found.runs[verdicts[-1].candidate] = OnnxRunner(staged)
            continue
        made = session.record(verdicts[0])
        if migrated is not None:
            for note in save_migrated(migrated, staged, made):
                terminal.line(f"{output}: {note}")
        elif output.suffix == ".safetensors":
            save_tensors(network.state_dict(), staged, made)
        else:
            save_module(network, staged, made)
    return verdicts, found


def _migrate(session: Session, network: nn.Module) -> Migrated | None:
    """The checkpoint around the weights; None where the source is none, or the form one that none goes to."""
    if not is_checkpoint(session.source) or session.job.form != "conv3d":
        return None
    rows = (row for row in session.layers if row.kind == "hidden")
    hidden = [name for row in rows for name in (row.name, *row.aliases)]
    migrated = migrate_content(session.source, hidden=hidden)
    check_same(migrated, network)
    return migrated


def _export(session: Session, network: nn.Module, output: Path, staged: Path, terminal: Terminal) -> Verdict:
    job, evidence = session.job, session.evidence
    if evidence.dtype not in CONVOLVED:
        dtype = str(evidence.dtype).removeprefix("torch.")
        terminal.line(f"{output}: in float32, since ONNX Runtime's CPU provider does not convolve in {dtype}")
        with terminal.progress("running the original in float32"):
            single = copy_model(session.model).float()
            network, evidence = convert(single, job.form), gather(single, evidence.shape, seed=job.seed)
    opset = DEFAULT_OPSET if job.opset is None else job.opset
    with terminal.progress("exporting to ONNX and running it"):
        axes, verdict = write_judged_onnx(evidence, network, staged, opset=opset, record=session.record)
    if axes.reason is not None:
        terminal.line(f"{output}: height and width are fixed, {axes.reason}")
    return verdict


def _verify_only(session: Session, staging: Staging, terminal: Terminal) -> tuple[list[Verdict], Candidates]:
    job = session.job
    if job.converted is None:
        return [], Candidates()
    found = Candidates()
    name = job.converted.name
    if job.converted.suffix == ".onnx":
        with terminal.progress(f"judging {name}") as progress:
            verdict = judge_onnx(session.evidence, job.converted, progress=progress)
        found.runs[verdict.candidate] = OnnxRunner(job.converted)
        return [verdict], found
    with terminal.progress(f"reading {name}"):
        source = read_source(job.converted, job.allow, unsafe=job.unsafe)
        network = build_candidate(source, {form: convert(session.model, form) for form in FORMS})
    with terminal.progress(f"judging {name}") as progress:
        verdict = judge_module(session.evidence, network, name, progress=progress)
    found.add(name, network)
    return [verdict], found


def _write_reports(session: Session, verdicts: list[Verdict], found: Candidates, staging: Staging) -> None:
    passed = all(verdicts)
    report = make_report(
        session.record(None),
        verdict_as_line(*verdicts),
        passed,
        session.evidence.explain(),
        [verdict_in_full(verdict) for verdict in verdicts],
        [
            {"name": output.name, "bytes": output.stat().st_size, "sha256": sha256_of([output])}
            for output in (session.job.outputs if passed else ())
        ],
        hue_circle(session.evidence, found.runs, found.networks),
    )
    for path in session.job.reports:
        write_report(report, staging.path_for(path))
    staging.commit()


def _check_outputs(job: Job) -> None:
    written = (*job.outputs, *job.reports)
    targets = [real_path(output) for output in written]
    for output, target in zip(written, targets, strict=True):
        check_not_input(output, job.model)
        if job.converted is not None:
            check_not_input(output, job.converted)
        if targets.count(target) > 1:
            raise OutputError(f"{output} is written twice: give each output a name of its own")
        check_output(output, force=job.force)


def _check_forms(job: Job, source: Source) -> None:
    kept = [output for output in job.outputs if output.suffix not in (".safetensors", ".onnx")]
    if kept and job.form != "conv3d" and is_checkpoint(source) and not job.dry_run:
        raise OutputError(
            f"{kept[0]} would be a checkpoint in the form {job.form}, and they are kept in conv3d alone: "
            "give a .safetensors or .onnx output"
        )
