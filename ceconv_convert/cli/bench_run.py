"""Time the original and every form of it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ceconv_convert.bench.machine import check_threads, provider_named
from ceconv_convert.bench.measure import Bench, measure
from ceconv_convert.cli.run_context import RunContext
from ceconv_convert.conversion.convert import replace_layers
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.forms.table import AUTO, FORMS
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import write_onnx
from ceconv_convert.onnx.runtime import CONVOLVED
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.shapes import random_input


def check_bench(context: RunContext) -> str:
    """The full name of the provider; BenchError where the network cannot be measured with it here."""
    dtype = context.evidence.dtype
    if dtype not in CONVOLVED:
        raise BenchError(f"ONNX Runtime does not convolve in {dtype}: measure model.float() instead")
    check_threads(context.job.threads)
    return provider_named(context.job.provider)


def bench_run(context: RunContext) -> Bench:
    """Time the original and every form, as ONNX files and as PyTorch modules.

    Raises:
        BenchError: where the network cannot be measured.
        ExportError: where the original cannot be exported.
    """
    job, evidence, terminal, found = context.job, context.evidence, context.terminal, context.found
    provider = check_bench(context)
    try:
        x = random_input((job.batch, *evidence.shape), job.seed, evidence.dtype, torch.device("cpu"))
    except RuntimeError as error:  # torch's for too little memory too
        raise BenchError(f"a batch of {job.batch} cannot be made: {first_line(error)}") from error
    original = copy_model(context.model).eval()
    with TemporaryDirectory() as folder:
        fixed = {} if evidence.fixed_size is None else {"size": evidence.fixed_size}
        files = {form: Path(folder) / f"{form}.onnx" for form in ("original", *FORMS, AUTO)}
        with terminal.progress("exporting the candidates") as progress:
            for done, (form, path) in enumerate(files.items()):
                write_onnx(
                    original if form == "original" else exportable(original, form, found),
                    path,
                    evidence.inputs[1],  # a batch of 2
                    opset=job.opset,
                    fixed=fixed,
                    form=form,
                    processor=job.processor,
                )
                progress(done + 1, len(files))
        modules = {"original": original}
        for each in FORMS.values():
            modules[each.name] = replace_layers(original, found, each.build, each.name).eval()
        with terminal.progress("measuring") as progress:
            bench = measure(files, modules, x, provider=provider, threads=job.threads, progress=progress)
    terminal.bench(bench)
    return bench
