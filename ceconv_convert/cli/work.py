"""What a run does with a network: convert, judge and write it; or judge what is written already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ceconv_convert.checkpoint.container import is_checkpoint
from ceconv_convert.checkpoint.load import build_candidate
from ceconv_convert.checkpoint.migrate import Migrated, check_same, migrate_content, save_migrated
from ceconv_convert.cli.job import Candidates, Session
from ceconv_convert.conversion.convert import replace_layers
from ceconv_convert.files import provenance
from ceconv_convert.files.save import save_module, save_tensors
from ceconv_convert.files.source import read_source
from ceconv_convert.files.staging import Staging
from ceconv_convert.files.system import name_of
from ceconv_convert.forms.table import FORMS, form_named
from ceconv_convert.onnx.deliver import COMPILED, exportable, write_judged_onnx
from ceconv_convert.onnx.explain import choices_as_lines
from ceconv_convert.onnx.export import Exported
from ceconv_convert.onnx.judge_file import judge_onnx
from ceconv_convert.onnx.runtime import CONVOLVED, OnnxRunner
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.evidence import gather
from ceconv_convert.verification.judge import judge_module
from ceconv_convert.verification.outputs import Outputs
from ceconv_convert.verification.shapes import failure_on
from ceconv_convert.verification.verdict import Verdict


def convert_and_write(
    session: Session, staging: Staging, terminal: Terminal
) -> tuple[list[Verdict], Candidates]:
    """Convert, judge, and write every output; the verdicts, and what can be run again."""
    found = Candidates()
    verdicts: list[Verdict] = []
    network, migrated = None, None
    form = session.job.module_form
    files = [output for output in session.job.outputs if output.suffix == ".onnx"]
    graphs: Session | None = None
    if form is not None:
        with terminal.progress("converting") as progress:
            network = replace_layers(
                session.model, session.found, form_named(form).build, form, progress=progress
            )
            migrated = _migrate(session, network)
        candidate = f"the {form} network"
        with terminal.progress(f"judging {candidate}") as progress:
            verdicts.append(judge_module(session.evidence, network, candidate, progress=progress))
        found.add(candidate, copy_model(network))
    for output in session.job.outputs if all(verdicts) else ():
        staged = staging.path_for(output)
        if output in files:
            graphs = graphs or _convolved(session, files, terminal)
            converted = network if graphs is session else None
            found.exported, verdict = _export(graphs, converted, output, staged, terminal)
            verdicts.append(verdict)
            found.runs[verdict.candidate] = partial(_run_graph, OnnxRunner(staged), graphs.evidence.dtype)
        elif network is not None:
            _write_module(network, migrated, output, staged, session.record(verdicts[0]), terminal)
    return verdicts, found


def _write_module(
    network: nn.Module,
    migrated: Migrated | None,
    output: Path,
    staged: Path,
    made: provenance.Record,
    terminal: Terminal,
) -> None:
    if migrated is not None:
        for note in save_migrated(migrated, staged, made):
            terminal.line(f"{output}: {note}")
    elif output.suffix == ".safetensors":
        save_tensors(network.state_dict(), staged, made)
    else:
        save_module(network, staged, made)


def _migrate(session: Session, network: nn.Module) -> Migrated | None:
    """The checkpoint around the weights; None where the source is none, or the form one that none goes to."""
    if not is_checkpoint(session.source) or session.job.module_form != "conv3d":
        return None
    rows = (row for row in session.layers if row.kind == "hidden")
    hidden = [name for row in rows for name in (row.name, *row.aliases)]
    migrated = migrate_content(session.source, hidden=hidden)
    check_same(migrated, network)
    return migrated


def _convolved(session: Session, outputs: Iterable[Path], terminal: Terminal) -> Session:
    """The session that ONNX files are of: in float32 where ONNX Runtime does not convolve in the dtype."""
    evidence = session.evidence
    if evidence.dtype in CONVOLVED:
        return session
    dtype = str(evidence.dtype).removeprefix("torch.")
    for output in outputs:
        terminal.line(f"{output}: in float32, since ONNX Runtime's CPU provider does not convolve in {dtype}")
    data = torch.cat(evidence.data) if evidence.data else None
    with terminal.progress("running the original in float32"):
        model = copy_model(session.model).float()
        single = gather(
            model,
            evidence.shape,
            found=session.found,
            seed=session.job.seed,
            data=data,
            labels=evidence.labels,
        )
    return replace(session, model=model, evidence=single)


def _run_graph(runner: OnnxRunner, dtype: torch.dtype, x: Tensor) -> Outputs:
    """A file on an input in whatever dtype."""
    return runner(x.to(dtype))


def _export(
    session: Session, network: nn.Module | None, output: Path, staged: Path, terminal: Terminal
) -> tuple[Exported, Verdict]:
    """Write an ``.onnx`` output; of ``network``, where the run has converted one to that form already."""
    job, evidence, model = session.job, session.evidence, session.model
    form = job.onnx_form

    def record(verdict: Verdict, exported: Exported) -> provenance.Record:
        return session.record(verdict, form, exported)

    with terminal.progress("exporting to ONNX and running it"):
        if network is None or form in COMPILED:
            network = exportable(model, form, session.found)
        exported, verdict = write_judged_onnx(
            evidence, network, staged, form=form, opset=job.onnx_opset, processor=job.processor, record=record
        )
    for note in exported.notes:
        terminal.line(f"{output}: {note}")
    if evidence.data and "size" in exported.fixed and evidence.data[0].shape[1:] != evidence.shape:
        terminal.line(f"{output}: not judged on the user's inputs, which are of another size")
    for line in choices_as_lines(exported.compiled.choices):
        terminal.line(f"{output}: {line}")
    return exported, verdict


def verify_only(session: Session, staging: Staging, terminal: Terminal) -> tuple[list[Verdict], Candidates]:
    """Judge the second file; the verdict, and what can be run again."""
    job = session.job
    if job.converted is None:
        return [], Candidates()
    found = Candidates()
    name = name_of(job.converted)
    if job.converted.suffix == ".onnx":
        evidence = _convolved(session, [job.converted], terminal).evidence
        with terminal.progress(f"judging {name}") as progress:
            verdict = judge_onnx(evidence, job.converted, progress=progress)
        found.runs[verdict.candidate] = partial(_run_graph, OnnxRunner(job.converted), evidence.dtype)
        return [verdict], found
    with terminal.progress(f"reading {name}"):
        source = read_source(job.converted, job.allow, unsafe=job.unsafe)
        network = build_candidate(
            source,
            {
                form.name: replace_layers(session.model, session.found, form.build, form.name)
                for form in FORMS.values()
            },
        ).eval()
        failure_on(network, session.evidence.shape)
    with terminal.progress(f"judging {name}") as progress:
        verdict = judge_module(session.evidence, network, name, progress=progress)
    found.add(name, network)
    return [verdict], found
