"""One run of the command line: load, plan, convert, verify, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import exists
from pathlib import Path

from ceconv_convert.api import write_judged_onnx
from ceconv_convert.checkpoint import Staging, check_output, load, real_path, save_module, save_tensors
from ceconv_convert.errors import OutputError
from ceconv_convert.graph import DEFAULT_OPSET
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.rewrite import check_plan, convert, plan
from ceconv_convert.verification import Verdict, gather, judge_module


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


def run(job: Job, terminal: Terminal) -> bool:
    """Do it; whether the verdict passed.

    Raises:
        ConversionError: where it cannot be done.
    """
    if not job.dry_run:
        _check_outputs(job)
    with terminal.progress(f"reading {job.model.name}"):
        model = load(
            job.model, allow=job.allow, model=job.factory, arguments=job.arguments, unsafe=job.unsafe
        )
    layers = plan(model, job.form)
    if layers.rows:
        terminal.plan(layers)
    check_plan(layers)
    if job.dry_run:
        return True
    with terminal.progress("converting") as progress:
        converted = convert(model, job.form, progress=progress)
    with terminal.progress("running the original and the referee") as progress:
        evidence = gather(model, job.input_shape, progress=progress)
    for line in evidence.explain():
        terminal.line(line)
    with terminal.progress(f"judging the {job.form} network") as progress:
        verdict = judge_module(evidence, converted, f"the {job.form} network", progress=progress)
    if not verdict.passed:
        terminal.verdict(verdict)
        return False
    verdicts: list[Verdict] = [verdict]
    with Staging(force=job.force) as staging:
        for output in job.outputs:
            staged = staging.path_for(output)
            if output.suffix == ".onnx":
                with terminal.progress("exporting to ONNX and running it"):
                    axes, judged = write_judged_onnx(
                        evidence, converted, staged, opset=DEFAULT_OPSET if job.opset is None else job.opset
                    )
                if axes.reason is not None:
                    terminal.line(f"{output}: height and width are fixed, {axes.reason}")
                verdicts.append(judged)
            elif output.suffix == ".safetensors":
                save_tensors(converted, staged)
            else:
                save_module(converted, staged)
        if all(verdicts):
            staging.commit()
    if all(verdicts):
        for output in job.outputs:
            terminal.wrote(output)
    terminal.verdict(*verdicts)
    return all(verdicts)


def _check_outputs(job: Job) -> None:
    source = real_path(job.model)
    targets = [real_path(output) for output in job.outputs]
    for output, target in zip(job.outputs, targets, strict=True):
        if target == source or (exists(target) and exists(source) and target.samefile(source)):
            raise OutputError(f"{output} is the input: give another name")
        if targets.count(target) > 1:
            raise OutputError(f"{output} is written twice: give each output a name of its own")
        check_output(output, force=job.force)
