"""The candidates of a network, measured against each other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from ceconv_convert.api import exportable
from ceconv_convert.bench import Bench, measure, provider_named
from ceconv_convert.errors import BenchError
from ceconv_convert.graph import CONVOLVED, write_onnx
from ceconv_convert.modules import AUTO, FORMS, copy_model, unwrapped
from ceconv_convert.pipeline.job import BenchJob, Session
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.rewrite import convert
from ceconv_convert.verification.evidence import Progress

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
    with TemporaryDirectory() as folder:
        with terminal.progress("exporting the candidates") as progress:
            files = export_candidates(
                original,
                Path(folder),
                evidence.inputs[1],
                dynamic_size=evidence.fixed_size is None,
                processor=session.job.processor,
                progress=progress,
            )
        with terminal.progress("measuring") as progress:
            modules = eager_candidates(original)
            bench = measure(files, modules, x, provider=provider, threads=asked.threads, progress=progress)
    terminal.bench(bench)
    return bench


def export_candidates(
    original: nn.Module,
    folder: Path,
    example: Tensor,
    *,
    dynamic_size: bool = True,
    processor: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """The network as it is, and in every form, as ONNX files in ``folder``, by form."""
    forms = (_ORIGINAL, *FORMS, AUTO)
    files = {}
    for done, form in enumerate(forms):
        files[form] = folder / f"{form}.onnx"
        network = original if form == _ORIGINAL else exportable(original, form)
        write_onnx(network, files[form], example, dynamic_size=dynamic_size, form=form, processor=processor)
        if progress is not None:
            progress(done + 1, len(forms))
    return files


def eager_candidates(original: nn.Module) -> dict[str, nn.Module]:
    """The network as it is, and in every form that PyTorch has, in eval mode, by form."""
    return {_ORIGINAL: original, **{form: convert(original, form).eval() for form in FORMS}}
