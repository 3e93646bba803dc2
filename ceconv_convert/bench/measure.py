"""Measure candidates: ONNX files in ONNX Runtime, and modules in PyTorch beside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from ceconv_convert.bench.machine import check_provider, cores, device_for, processor_name
from ceconv_convert.bench.multiplications import multiplications
from ceconv_convert.bench.session_probe import probe
from ceconv_convert.bench.timing import interleave
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.onnx.onnx_files import onnx_files
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.verification.outputs import Outputs, flatten
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.tolerance import distance, largest

Progress = Callable[[int, int], None]
_BASELINE = "original"
_PRODUCT = "a large matrix product"
_SIDE = 1024


@dataclass(frozen=True)
class Row:
    """A candidate; docs/report.md says what the numbers are. None is what was not measured."""

    name: str
    runtime: str
    seconds: float
    low: float
    high: float
    runs: int
    ratio: float | None
    error: float
    size: int | None = None
    load: float | None = None
    memory: int | None = None
    multiplications: int | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Bench:
    """Everything that was measured in one run: ``bench`` in docs/report.md."""

    shape: tuple[int, ...]
    threads: int
    provider: str
    processor: str
    rate: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Runs:
    """Of the candidates of one runtime: seconds of each run, and outputs on the CPU."""

    runtime: str
    times: Mapping[str, list[float]]
    outputs: Mapping[str, Outputs]

    def row(self, name: str, exact: Outputs | None) -> Row:
        times, baseline = self.times[name], self.times.get(_BASELINE)
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        ratio = None
        if baseline is not None:
            ratio = statistics.median(before / now for before, now in zip(baseline, times, strict=True))
        error = _error(self.outputs[name], exact)
        return Row(name, self.runtime, middle, low, high, len(times), ratio, error)


def measure(
    files: Mapping[str, Path],
    modules: Mapping[str, nn.Module],
    x: Tensor,
    *,
    provider: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Time every candidate on the input ``x``, those of a runtime interleaved.

    Args:
        files: ONNX files by name; ratios are against the one named ``original``.
        modules: in eval mode; likewise.
        x: the input.
        provider: full name of an execution provider.
        threads: None is one a core.
        progress: called with rounds done and rounds in all.

    Raises:
        BenchError: where a candidate cannot run on the input, or with that provider.
    """
    threads = threads or cores()
    with _bench_errors(x):
        in_onnx = _run_files(files, x, provider, threads, progress)
        in_torch = _run_modules(modules, x, device_for(provider), threads)
        rate = _SIDE**3 / statistics.median(in_onnx.times[_PRODUCT])
        exact = in_torch.outputs.get(_BASELINE, in_onnx.outputs.get(_BASELINE))
        rows = [
            _with_file_numbers(in_onnx.row(name, exact), path, x, provider, threads, rate)
            for name, path in files.items()
        ]
        rows += [in_torch.row(name, exact) for name in modules]
    return Bench(tuple(x.shape), threads, provider, processor_name(provider), rate, tuple(rows))


@contextmanager
def _bench_errors(x: Tensor) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        shape = as_text(tuple(x.shape))
        raise BenchError(f"the candidates cannot be measured on {shape}: {first_line(error)}") from error
    except OSError as error:
        raise BenchError(f"a file for measuring cannot be written: {error.strerror or error}") from error


def _run_files(
    files: Mapping[str, Path], x: Tensor, provider: str, threads: int, progress: Progress | None
) -> _Runs:
    """ONNX files in ONNX Runtime, and a large matrix product beside them."""
    runners = {name: OnnxRunner(path, provider, threads) for name, path in files.items()}
    for runner in runners.values():
        check_provider(provider, runner.provider)
    outputs = {name: runner(x) for name, runner in runners.items()}
    runs = {name: partial(runner, x) for name, runner in runners.items()}
    product = _matrix_product(provider, threads)
    return _Runs("onnx", interleave({**runs, _PRODUCT: product}, progress=progress), outputs)


def _matrix_product(provider: str, threads: int) -> Callable[[], object]:
    """A matrix product as large as a network's are."""
    shape = f"float[{_SIDE}, {_SIDE}]"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]> rate ({shape} x) => ({shape} y) {{ y = MatMul(x, w) }}'
    )
    matrix = torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    model.graph.initializer.append(onnx.numpy_helper.from_array(matrix.numpy(), "w"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rate.onnx"
        onnx.save(model, path)
        return partial(OnnxRunner(path, provider, threads), matrix)


def _with_file_numbers(row: Row, path: Path, x: Tensor, provider: str, threads: int, rate: float) -> Row:
    load, memory = probe(path, provider, threads, x.shape)
    count = multiplications(path, x[:1]) * len(x)
    size = sum(file.stat().st_size for file in onnx_files(path))
    return replace(row, size=size, load=load, memory=memory, multiplications=count, limit=count / rate)


def _run_modules(modules: Mapping[str, nn.Module], x: Tensor, device: torch.device, threads: int) -> _Runs:
    """Modules in PyTorch, eager."""
    before, image = torch.get_num_threads(), x.to(device)
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            moved = {name: module.to(device) for name, module in modules.items()}
            # A forward pass may work in place.
            found = {name: flatten(module(image.clone())) for name, module in moved.items()}
            outputs = {name: tuple(output.cpu() for output in outputs) for name, outputs in found.items()}
            times = interleave({name: partial(_run_once, module, image) for name, module in moved.items()})
    finally:
        torch.set_num_threads(before)
    return _Runs("torch", times, outputs)


def _run_once(module: nn.Module, image: Tensor) -> None:
    module(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)


def _error(outputs: Outputs, exact: Outputs | None) -> float:
    """The worst distance over all outputs, each over its largest value; what is not finite is worst."""
    pairs = zip(outputs, exact, strict=True) if exact is not None else ()
    errors = (_relative_error(found, truth) for found, truth in pairs)
    return max(errors, key=lambda error: (not math.isfinite(error), error), default=0.0)


def _relative_error(found: Tensor, truth: Tensor) -> float:
    if torch.equal(found, truth):
        return 0.0
    scale = largest(truth)
    return distance(found, truth) / scale if scale else math.inf
