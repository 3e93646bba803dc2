"""``--bench``: the original and every form side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ceconv_convert.bench.bench_table import HEADINGS, bench_as_lines, row_as_texts
from ceconv_convert.bench.measure import INT8, Bench, cores, measure, provider_named
from ceconv_convert.cli.context import RunContext
from ceconv_convert.conversion.convert import replace_layers
from ceconv_convert.conversion.plan import aligned_lines
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.forms.table import AUTO, FORMS
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.passes.cost_models import cost_model
from ceconv_convert.onnx.runtime import CONVOLVED
from ceconv_convert.rounding.round_file import has_vnni, ranges_of, write_int8
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.shapes import random_input


def bench_provider(context: RunContext) -> str:
    """The full name of the provider; BenchError where the network cannot be measured with it here."""
    dtype, threads = context.evidence.dtype, context.job.threads
    if dtype not in CONVOLVED:
        raise BenchError(f"ONNX Runtime does not convolve in {dtype}: measure model.float() instead")
    if threads is not None and threads > cores():  # that would measure the scheduler
        raise BenchError(f"--threads {threads} is more than the {cores()} cores here")
    return provider_named(context.job.provider)


def run_bench(context: RunContext, provider: str) -> Bench:
    """Time the original and every form, as ONNX files and as PyTorch modules."""
    job, evidence, terminal, found = context.job, context.evidence, context.terminal, context.found
    try:
        x = random_input((job.batch, *evidence.shape), job.seed, evidence.dtype, torch.device("cpu"))
    except RuntimeError as error:  # torch's for too little memory too
        raise BenchError(f"a batch of {job.batch} cannot be made: {first_line(error)}") from error
    original = copy_model(context.model).eval()
    with TemporaryDirectory() as folder:
        fixed = {} if evidence.fixed_size is None else {"size": evidence.fixed_size}
        costs = cost_model(job.processor, precision=job.precision, runtime=job.target)
        export = partial(write_onnx, opset=job.opset, fixed=fixed, costs=costs)
        files = {form: Path(folder) / f"{form}.onnx" for form in ("original", *FORMS, AUTO)}
        quantized: dict[str, Path] = {}
        with terminal.progress("exporting the candidates") as progress:
            for done, (form, path) in enumerate(files.items()):
                network = original if form == "original" else exportable(original, form, found)
                export(network, path, evidence.export_example, form=form)
                if job.precision == "int8":
                    rounded = path.with_name(f"{form}.int8.onnx")
                    write_int8(path, rounded, ranges_of(path, [x]), reduce_range=not has_vnni(job.processor))
                    quantized[f"{form}{INT8}"] = rounded
                progress(done + 1, len(files))
        modules = {"original": original}
        for form, row in FORMS.items():
            modules[form] = replace_layers(copy_model(original), found, row.build).eval()
        with terminal.progress("measuring") as progress:
            bench = measure(
                files | quantized, modules, x, provider=provider, threads=job.threads, progress=progress
            )
    runtimes = {row.runtime for row in bench.rows}
    fastest = [min(row.seconds for row in bench.rows if row.runtime == each) for each in runtimes]
    lines = aligned_lines([HEADINGS, *(row_as_texts(vars(row)) for row in bench.rows)], HEADINGS[1:])
    terminal.table(lines, ("bold" if row.seconds in fastest else "" for row in bench.rows))
    for line in bench_as_lines(bench):
        terminal.line(line)
    return bench
