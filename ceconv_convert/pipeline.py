"""One run of the command line: load, plan, convert, verify, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ceconv_convert.api import write_judged_onnx
from ceconv_convert.checkpoint import (
    Migrated,
    Source,
    Staging,
    build_network,
    check_not_input,
    check_output,
    check_same,
    is_checkpoint,
    migrate_content,
    provenance,
    read_source,
    real_path,
    save_migrated,
    save_module,
    save_tensors,
)
from ceconv_convert.errors import OutputError
from ceconv_convert.graph import DEFAULT_OPSET
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.rewrite import Plan, check_plan, convert, plan, row_as_data
from ceconv_convert.verification import Evidence, Verdict, gather, judge_module, verdict_as_data


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


@dataclass(frozen=True, eq=False)
class Conversion:
    """What there is to write, once it is judged.

    Attributes:
        source: the file that it comes from.
        layers: the plan.
        network: converted.
        migrated: the checkpoint around its weights; None where the source is a whole module, or the form one
            that a checkpoint does not go to.
        evidence: what outputs are judged by.
        verdict: on ``network``.
    """

    source: Source
    layers: Plan
    network: nn.Module
    migrated: Migrated | None
    evidence: Evidence
    verdict: Verdict

    def record(self, verdict: Verdict) -> provenance.Record:
        """The provenance of an output."""
        rows = map(row_as_data, self.layers.convertible)
        name, sha256 = self.source.path.name, self.source.sha256
        return provenance.record(name, sha256, self.layers.form, rows, verdict_as_data(verdict))


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
    conversion = _convert(job, source, model, layers, terminal)
    verdicts = [conversion.verdict]
    if conversion.verdict.passed:
        with Staging(force=job.force) as staging:
            for output in job.outputs:
                verdicts += _write(conversion, output, staging.path_for(output), job, terminal)
            if all(verdicts):
                staging.commit()
    if all(verdicts):
        for output in job.outputs:
            terminal.wrote(output)
    terminal.verdict(*verdicts)
    return all(verdicts)


def _convert(job: Job, source: Source, model: nn.Module, layers: Plan, terminal: Terminal) -> Conversion:
    with terminal.progress("converting") as progress:
        network = convert(model, job.form, progress=progress)
        migrated = None
        if is_checkpoint(source) and job.form == "conv3d":
            hidden = [name for row in layers if row.kind == "hidden" for name in (row.name, *row.aliases)]
            migrated = migrate_content(source, hidden=hidden)
            check_same(migrated, network)
    with terminal.progress("running the original and the referee") as progress:
        evidence = gather(model, job.input_shape, progress=progress)
    for line in evidence.explain():
        terminal.line(line)
    candidate = f"the {job.form} network"
    with terminal.progress(f"judging {candidate}") as progress:
        verdict = judge_module(evidence, network, candidate, progress=progress)
    return Conversion(source, layers, network, migrated, evidence, verdict)


def _write(conversion: Conversion, output: Path, staged: Path, job: Job, terminal: Terminal) -> list[Verdict]:
    """Write one output to where it is staged; the verdicts that only now can be had."""
    if output.suffix == ".onnx":
        opset = DEFAULT_OPSET if job.opset is None else job.opset
        with terminal.progress("exporting to ONNX and running it"):
            axes, verdict = write_judged_onnx(
                conversion.evidence, conversion.network, staged, opset=opset, record=conversion.record
            )
        if axes.reason is not None:
            terminal.line(f"{output}: height and width are fixed, {axes.reason}")
        return [verdict]
    made = conversion.record(conversion.verdict)
    if conversion.migrated is not None:
        for note in save_migrated(conversion.migrated, staged, made):
            terminal.line(f"{output}: {note}")
    elif output.suffix == ".safetensors":
        save_tensors(conversion.network.state_dict(), staged, made)
    else:
        save_module(conversion.network, staged, made)
    return []


def _check_outputs(job: Job) -> None:
    targets = [real_path(output) for output in job.outputs]
    for output, target in zip(job.outputs, targets, strict=True):
        check_not_input(output, job.model)
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
