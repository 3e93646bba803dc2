"""Candidates with their verdicts: what a run converts and writes, or a file that exists.

What needs onnx is imported where it is needed: no other run waits for it.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ceconv_convert.checkpoint.container import is_checkpoint
from ceconv_convert.checkpoint.load import build_candidate
from ceconv_convert.checkpoint.migrate import Migrated, check_same, migrate_content, save_migrated
from ceconv_convert.cli.context import Candidate, RunContext
from ceconv_convert.cli.options import ONNX_SUFFIX, PROGRAM_SUFFIX, WEIGHTS_SUFFIX
from ceconv_convert.conversion.convert import replace_layers
from ceconv_convert.files.provenance import save_module, save_tensors
from ceconv_convert.files.source import read_source
from ceconv_convert.files.staging import Staging
from ceconv_convert.files.system import name_of
from ceconv_convert.forms.table import FORMS, form_named
from ceconv_convert.kernel.spec import CyclicSpec
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.judge import judge_module
from ceconv_convert.verification.shapes import failure_on


def convert_run(context: RunContext, staging: Staging) -> list[Candidate]:
    """Convert the original and stage every output; not after a module that failed its verdict."""
    job, candidates = context.job, []
    if job.module_form is not None:
        with context.terminal.progress("converting") as progress:
            build = form_named(job.module_form).build
            network = replace_layers(copy_model(context.model), context.found, build, progress)
            migrated = _migrate(context, network)
        # A copy: the module that is saved keeps its mode.
        candidate = _judge_module(context, f"the {job.module_form} network", copy_model(network).eval())
        if not candidate.verdict.passed:
            return [candidate]
        candidates.append(candidate)
        for output in job.module_outputs:
            staged, record = staging.path_for(output), context.record(candidate.verdict)
            if output.suffix == PROGRAM_SUFFIX:
                candidates.append(_export_program(context, network, output, staged))
            elif migrated is not None:
                for note in save_migrated(migrated, staged, record):
                    context.terminal.line(f"{output}: {note}")
            elif output.suffix == WEIGHTS_SUFFIX:
                save_tensors(network.state_dict(), staged, record)
            else:
                save_module(network, staged, record)
    if job.onnx_outputs:
        from ceconv_convert.cli.onnx_candidates import export_all

        candidates += export_all(context, {output: staging.path_for(output) for output in job.onnx_outputs})
    return candidates


def verify_run(context: RunContext, path: Path) -> list[Candidate]:
    """Judge an ONNX file, or a file that holds a module or its weights."""
    job, terminal, name = context.job, context.terminal, name_of(path)
    if path.suffix == ONNX_SUFFIX:
        from ceconv_convert.cli.onnx_candidates import judge_one

        return [judge_one(context, path)]
    if path.suffix == PROGRAM_SUFFIX:
        from ceconv_convert.exported_program import judge_program

        with terminal.progress(f"judging {name}") as progress:
            return [Candidate(*judge_program(context.evidence, path, progress=progress))]
    with terminal.progress(f"reading {name}"):
        source = read_source(path, job.allow, unsafe=job.unsafe)
        forms = {
            form: replace_layers(copy_model(context.model), context.found, row.build)
            for form, row in FORMS.items()
        }
        network = build_candidate(source, forms).eval()
        failure_on(network, context.evidence.shape)  # raises where it would take too much memory
    return [_judge_module(context, name, network)]


def _judge_module(context: RunContext, name: str, network: nn.Module) -> Candidate:
    with context.terminal.progress(f"judging {name}") as progress:
        verdict = judge_module(context.evidence, network, name, progress=progress)
    return Candidate(verdict, network)


def _export_program(context: RunContext, network: nn.Module, output: Path, staged: Path) -> Candidate:
    from ceconv_convert.exported_program import write_judged_program

    with context.terminal.progress("exporting for torch and running it") as progress:
        verdict, run, fixed = write_judged_program(
            context.evidence, network, staged, context.record, progress=progress
        )
    if fixed:
        context.terminal.line(f"{output}: {fixed} cannot be dynamic")
    return Candidate(verdict, run)


def _migrate(context: RunContext, network: nn.Module) -> Migrated | None:
    """The checkpoint around the weights; None where the source is none, or the form is kept in none."""
    if context.job.module_form != "conv3d" or not is_checkpoint(context.source):
        return None
    # Separable layers, a subclass, are known by their factors.
    layers = (layer for layer in context.found if type(layer.reading) is CyclicSpec)
    migrated = migrate_content(context.source, hidden=[name for layer in layers for name in layer.names])
    check_same(migrated, network)
    return migrated
