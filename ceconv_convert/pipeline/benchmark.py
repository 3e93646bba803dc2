"""The candidates of a network, measured against each other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ceconv_convert.api import exportable
from ceconv_convert.bench import Bench, measure, provider_named
from ceconv_convert.errors import BenchError
from ceconv_convert.graph import CONVOLVED, write_onnx
from ceconv_convert.modules import AUTO, FORMS, copy_model, unwrapped
from ceconv_convert.pipeline.job import BenchJob, Session
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.rewrite import convert

_ORIGINAL = "original"


def run_bench(session: Session, asked: BenchJob, terminal: Terminal) -> Bench:
    """Export the original as it is and every form of it, and time them, and the modules in PyTorch.

    Raises:
        BenchError: where the provider is not there, or the network's dtype cannot be measured.
        ExportError: where the original cannot be exported.
    """
    provider = provider_named(asked.provider)
    evidence = session.evidence
    if evidence.dtype not in CONVOLVED:
        raise BenchError(f"ONNX Runtime does not convolve in {evidence.dtype}: measure model.float() instead")
    original = unwrapped(copy_model(session.model).eval())
    torch.manual_seed(session.job.seed)
    x = torch.randn(asked.batch, *evidence.shape, dtype=evidence.dtype)
    forms = (_ORIGINAL, *FORMS, AUTO)
    with TemporaryDirectory() as folder:
        files = {}
        with terminal.progress("exporting the candidates") as progress:
            for done, form in enumerate(forms):
                files[form] = Path(folder) / f"{form}.onnx"
                network = original if form == _ORIGINAL else exportable(session.model, form)
                dynamic = evidence.fixed_size is None
                write_onnx(
                    network,
                    files[form],
                    evidence.inputs[1],
                    dynamic_size=dynamic,
                    form=form,
                    processor=session.job.processor,
                )
                progress(done + 1, len(forms))
        with terminal.progress("measuring") as progress:
            modules = {_ORIGINAL: original, **{form: convert(session.model, form).eval() for form in FORMS}}
            bench = measure(files, modules, x, provider=provider, threads=asked.threads, progress=progress)
    terminal.bench(bench)
    return bench
