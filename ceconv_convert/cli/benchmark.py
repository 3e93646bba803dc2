"""The candidates of a network, measured against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from ceconv_convert.bench.machine import check_threads, provider_named
from ceconv_convert.bench.measure import Bench, measure
from ceconv_convert.cli.job import BenchJob, Session
from ceconv_convert.conversion.convert import convert
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.forms.table import AUTO, FORMS
from ceconv_convert.onnx.deliver import exportable
from ceconv_convert.onnx.export import DEFAULT_OPSET, write_onnx
from ceconv_convert.onnx.runtime import CONVOLVED
from ceconv_convert.report.terminal import Terminal
from ceconv_convert.surgery import copy_model, unwrapped
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.shapes import random_input

_ORIGINAL = "original"


def check_bench(asked: BenchJob, dtype: torch.dtype) -> str:
    """The full name of the provider, if a network of ``dtype`` can be measured as asked.

    Raises:
        BenchError: where it cannot.
    """
    if dtype not in CONVOLVED:
        raise BenchError(f"ONNX Runtime does not convolve in {dtype}: measure model.float() instead")
    check_threads(asked.threads)
    return provider_named(asked.provider)


def run_bench(session: Session, asked: BenchJob, terminal: Terminal) -> Bench:
    """Export the original as it is and every form of it, and time them, and the modules in PyTorch.

    Raises:
        BenchError: where the network cannot be measured as asked.
        ExportError: where the original cannot be exported.
    """
    evidence = session.evidence
    provider = check_bench(asked, evidence.dtype)
    original = unwrapped(copy_model(session.model).eval())
    x = _images(asked.batch, evidence, session.job.seed)
    with _folder() as folder:
        with terminal.progress("exporting the candidates") as progress:
            files = export_candidates(
                original,
                folder,
                evidence.inputs[1],
                fixed={} if evidence.fixed_size is None else {"size": evidence.fixed_size},
                opset=session.job.onnx_opset,
                processor=session.job.processor,
                progress=progress,
            )
        with terminal.progress("measuring") as progress:
            modules = eager_candidates(original)
            bench = measure(files, modules, x, provider=provider, threads=asked.threads, progress=progress)
    terminal.bench(bench)
    return bench


def _images(count: int, evidence: Evidence, seed: int) -> Tensor:
    try:
        return random_input((count, *evidence.shape), seed, evidence.dtype, torch.device("cpu"))
    except RuntimeError as error:  # torch's for too little memory too
        raise BenchError(f"a batch of {count} cannot be made: {first_line(error)}") from error


@contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = TemporaryDirectory()
    except OSError as error:
        raise BenchError(f"there is no place for the candidates' files: {error}") from error
    with folder as path:
        yield Path(path)


def export_candidates(
    original: nn.Module,
    folder: Path,
    example: Tensor,
    *,
    fixed: Mapping[str, str] | None = None,
    opset: int = DEFAULT_OPSET,
    processor: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """The network as it is, and in every form, as ONNX files in ``folder``, by form."""
    forms = (_ORIGINAL, *FORMS, AUTO)
    files = {}
    for done, form in enumerate(forms):
        files[form] = folder / f"{form}.onnx"
        network = original if form == _ORIGINAL else exportable(original, form)
        write_onnx(
            network,
            files[form],
            example,
            opset=opset,
            fixed=fixed,
            form=form,
            processor=processor,
        )
        if progress is not None:
            progress(done + 1, len(forms))
    return files


def eager_candidates(original: nn.Module) -> dict[str, nn.Module]:
    """The network as it is, and in every form that PyTorch has, in eval mode, by form."""
    return {_ORIGINAL: original, **{form: convert(original, form).eval() for form in FORMS}}
