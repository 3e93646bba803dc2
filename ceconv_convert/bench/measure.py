"""Measure candidates: ONNX files in ONNX Runtime, and modules in PyTorch beside them."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from ceconv_convert.bench.multiplications import multiplications
from ceconv_convert.bench.providers import check_provider, cores
from ceconv_convert.bench.session_probe import probe
from ceconv_convert.bench.timing import interleave, median, middle_half
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.onnx.runtime import OnnxRunner
from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.running import Outputs, flatten
from ceconv_convert.verification.shapes import as_text

Progress = Callable[[int, int], None]
_MATRIX = 1024
_RATE = "a large matrix product"


@dataclass(frozen=True)
class Row:
    """A candidate.

    Attributes:
        name: of the form.
        runtime: ``onnx`` or ``torch``.
        seconds: the median.
        low: seconds that a quarter of the runs stay below.
        high: seconds that a quarter of the runs are above.
        runs: how many runs there are.
        ratio: how many times as fast as the original in the same runtime, median over rounds; None without.
        error: worst distance of an output from the original's, over its largest value.
        size: bytes of the file; None for modules.
        load: seconds until a session is there.
        memory: bytes at the peak, from before the load to after a run.
        multiplications: in a run.
        limit: seconds that these take at the measured rate.
    """

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
    """Everything that was measured in one run.

    Attributes:
        shape: of the input.
        threads: of each candidate.
        provider: of ONNX Runtime.
        processor: what it ran on, in words.
        rate: multiplications a second in a large matrix product of float32, same runtime and threads.
        rows: the candidates.
    """

    shape: tuple[int, ...]
    threads: int
    provider: str
    processor: str
    rate: float
    rows: tuple[Row, ...]


def measure(
    files: Mapping[str, Path],
    modules: Mapping[str, nn.Module],
    x: Tensor,
    *,
    provider: str,
    threads: int | None = None,
    baseline: str = "original",
    progress: Progress | None = None,
) -> Bench:
    """Time every candidate on the input ``x``, those of a runtime interleaved.

    Args:
        files: ONNX files, by what they are called.
        modules: in eval mode.
        x: the input.
        provider: full name of an execution provider.
        threads: None is one a core.
        baseline: the candidate that ratios are against.
        progress: called with rounds done and rounds in all.

    Raises:
        BenchError: where a candidate cannot run on the input, or with that provider.
    """
    count = threads or cores()
    outputs: dict[tuple[str, str], Outputs] = {}
    runs: dict[str, Callable[[], object]] = {}
    with _said(x):
        for name, path in files.items():
            runner = OnnxRunner(path, provider, count)
            check_provider(provider, runner.provider)
            outputs["onnx", name] = runner(x)
            runs[name] = partial(runner, x)
        times = interleave({**runs, _RATE: _product(provider, count)}, progress=progress)
        rate = _MATRIX**3 / median(times[_RATE])
        runs.clear()
        device = torch.device("cuda" if provider.startswith("CUDA") and torch.cuda.is_available() else "cpu")
        with _torch_threads(count), torch.inference_mode():
            moved, image = {name: module.to(device) for name, module in modules.items()}, x.to(device)
            for name, module in moved.items():
                found = flatten(module(image.clone()))  # a forward pass may work in place
                outputs["torch", name] = tuple(output.cpu() for output in found)
            eager = interleave({name: _bound(module, image) for name, module in moved.items()})
        exact = outputs.get(("torch", baseline), outputs.get(("onnx", baseline)))
        rows: list[Row] = []
        for name, path in files.items():
            probed = probe(path, provider, count, x.shape)
            products = multiplications(path, x[:1]) * len(x)
            row = replace(
                _timed(name, "onnx", times, baseline, _error(outputs["onnx", name], exact)),
                size=_size(path),
                load=probed.load,
                memory=probed.memory,
                multiplications=products,
                limit=products / rate,
            )
            rows.append(row)
        for name in modules:
            rows.append(_timed(name, "torch", eager, baseline, _error(outputs["torch", name], exact)))
    return Bench(tuple(x.shape), count, provider, _processor(provider), rate, tuple(rows))


@contextmanager
def _said(x: Tensor) -> Iterator[None]:
    """What goes wrong outside of this package, as a BenchError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        shape = as_text(tuple(x.shape))
        raise BenchError(f"the candidates cannot be measured on {shape}: {first_line(error)}") from error
    except OSError as error:
        raise BenchError(f"a file for measuring cannot be written: {error.strerror or error}") from error


def _timed(name: str, runtime: str, times: Mapping[str, list[float]], baseline: str, error: float) -> Row:
    found, before = times[name], times.get(baseline)
    low, high = middle_half(found)
    ratio = None if before is None else median([a / b for a, b in zip(before, found, strict=True)])
    return Row(name, runtime, median(found), low, high, len(found), ratio, error)


def _error(outputs: Outputs, exact: Outputs | None) -> float:
    """The worst distance over all outputs, each over its largest value; what is not finite is worst."""
    pairs = zip(outputs, exact, strict=True) if exact is not None else ()
    errors = (_relative(found, truth) for found, truth in pairs)
    return max(errors, key=lambda error: (not math.isfinite(error), error), default=0.0)


def _relative(found: Tensor, truth: Tensor) -> float:
    if torch.equal(found, truth):
        return 0.0
    scale = largest(truth)
    return distance(found, truth) / scale if scale else math.inf


def _bound(module: nn.Module, image: Tensor) -> Callable[[], object]:
    def once() -> None:
        module(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)

    return once


def _product(provider: str, threads: int) -> Callable[[], object]:
    """A matrix product as large as a network's are, in the same runtime."""
    kind = onnx.TensorProto.FLOAT
    sides = [onnx.helper.make_tensor_value_info(name, kind, [_MATRIX, _MATRIX]) for name in ("x", "y")]
    matrix = torch.rand(_MATRIX, _MATRIX, generator=torch.Generator().manual_seed(0))
    weight = onnx.numpy_helper.from_array(matrix.numpy(), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "rate", sides[:1], sides[1:], [weight])
    opset = onnx.helper.make_opsetid("", 18)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rate.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
        return partial(OnnxRunner(path, provider, threads), matrix)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _size(path: Path) -> int:
    """Of the file, and of the weights beside it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def _processor(provider: str) -> str:
    """Its name, where the system tells."""
    if provider.startswith("CUDA") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{found[0] if found else name}, {torch.backends.cpu.get_cpu_capability()}"
