"""Measure candidates: ONNX files in ONNX Runtime, and modules in PyTorch beside them."""

import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ceconv_convert.bench.openvino_runner import OpenVinoRunner, openvino_precisions
from ceconv_convert.bench.session_probe import probe
from ceconv_convert.errors import BenchError, first_line
from ceconv_convert.onnx.onnx_files import onnx_files
from ceconv_convert.onnx.runtime import OnnxRunner, inner_values
from ceconv_convert.verification.evidence import Progress
from ceconv_convert.verification.outputs import Outputs, run_module
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.tolerance import distance, largest

_BASELINE = "original"
_PRODUCT = "a large matrix product"
_SIDE = 1024
_DISCARDED = 2
_LEAST, _MOST = 5, 40
_SECONDS = 20.0  # for all candidates together; slow ones get fewer runs, never fewer than five
_ENDING = "ExecutionProvider"
INT8 = ", int8"
"""The end of the names of quantized files."""
_REMOTE = "AzureExecutionProvider"
"""It sends single operators to a service; networks run on the CPU all the same."""

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """A candidate; docs/report.md says what the numbers are. None is what was not measured."""

    name: str
    runtime: str
    seconds: float
    low: float
    high: float
    runs: int
    ratio: float
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


def measure(
    files: Mapping[str, Path],
    modules: Mapping[str, nn.Module],
    x: Tensor,
    *,
    provider: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Time ONNX files and modules in eval mode, by name, on the input ``x``; those of a runtime interleaved.

    Files run in ONNX Runtime and, on the CPU and where it is installed, in OpenVINO. Ratios are against the
    candidate ``original``: of files, in ONNX Runtime; of modules, in PyTorch. ``provider`` is the full name
    of an execution provider; ``threads`` None is one a core; ``progress`` gets the rounds done and in all.

    Raises:
        BenchError: where a candidate cannot run on the input, or with that provider.
    """
    threads = threads or cores()
    device = torch.device("cuda" if provider.startswith("CUDA") and torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    try:
        product = _matrix_product(provider, threads)
        runners = {name: _runner(path, provider, threads) for name, path in files.items()}
        others = (
            _in_openvino(files, threads) if provider.startswith("CPU") and x.dtype == torch.float32 else {}
        )
        times, outputs = _run_all({**runners, **others, _PRODUCT: product}, x, progress)
        torch.set_num_threads(threads)
        with torch.inference_mode():
            module_times, module_outputs = _run_all(
                {name: module.to(device) for name, module in modules.items()}, x.to(device)
            )
        rate = _SIDE**3 / statistics.median(times[_PRODUCT])
        exact = (module_outputs or outputs)[_BASELINE]
        rows = []
        for name, path in files.items():
            row = _row(name, "onnx", times, _error(outputs[name], exact))
            load, memory = probe(path, provider, threads, x.shape)
            size = sum(file.stat().st_size for file in onnx_files(path))
            count = multiplications(path, x[:1]) * len(x)
            limit = count / rate
            rows.append(replace(row, size=size, load=load, memory=memory, multiplications=count, limit=limit))
        for name in others:
            rows.append(_row(name, "openvino", times, _error(outputs[name], exact)))
        for name, found in module_outputs.items():
            rows.append(_row(name, "torch", module_times, _error(found, exact)))
    except (RuntimeError, MemoryError) as error:
        shape = as_text(tuple(x.shape))
        raise BenchError(f"the candidates cannot be measured on {shape}: {first_line(error)}") from error
    finally:
        torch.set_num_threads(before)
    return Bench(tuple(x.shape), threads, provider, processor_name(device), rate, tuple(rows))


def multiplications(path: Path, x: Tensor) -> int:
    """Those of convolutions and matrix products outside of branches and loops, on the input ``x``."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {name: tuple(value.shape) for name, value in inner_values(path, x).items()}
    shapes[graph.input[0].name] = tuple(x.shape)
    count = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):  # weight [O, I / groups, …], or [I, O / groups, …]
            end = node.output[0] if node.op_type == "Conv" else node.input[0]
            count += math.prod(shapes[end]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
            count += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if transposed else -1]
    return count


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = _SECONDS,
    progress: Progress | None = None,
) -> Times:
    """Seconds of every run of every candidate, all of them once a round; two rounds are discarded.

    So the machine's drift meets all of them alike.
    """
    times: Times = {name: [] for name in candidates}
    started = time.perf_counter()
    done, rounds = 0, _LEAST + _DISCARDED
    while done < rounds:
        for name, run in candidates.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
        done += 1
        each = (time.perf_counter() - started) / done
        rounds = min(_MOST, max(_LEAST, int(seconds / max(each, 1e-9)))) + _DISCARDED
        if progress is not None:
            progress(done, rounds)
    return {name: found[_DISCARDED:] for name, found in times.items()}


def _row(name: str, runtime: str, times: Times, error: float) -> Row:
    low, middle, high = statistics.quantiles(times[name], n=4, method="inclusive")
    ratios = (before / now for before, now in zip(times[_BASELINE], times[name], strict=True))
    return Row(name, runtime, middle, low, high, len(times[name]), statistics.median(ratios), error)


def _runner(path: Path, provider: str, threads: int) -> OnnxRunner:
    runner = OnnxRunner(path, provider, threads)
    if runner.provider != provider:
        raise BenchError(f"{provider} does not load here: ONNX Runtime took {runner.provider} instead")
    return runner


def _in_openvino(files: Mapping[str, Path], threads: int) -> dict[str, OpenVinoRunner]:
    """By name and precision; a file that is quantized already in one of them."""
    precisions = openvino_precisions()
    runners = {}
    for name, path in files.items():
        for precision in precisions[:1] if name.endswith(INT8) else precisions:
            key = name if name.endswith(INT8) else f"{name}, {precision}"
            with suppress(RuntimeError):  # it does not read every original
                runners[f"{key}, OpenVINO"] = OpenVinoRunner(path, precision, threads)
    return runners


def _matrix_product(provider: str, threads: int) -> Callable[[Tensor], object]:
    """A matrix product as large as a network's are, whatever the input."""
    shape = f"float[{_SIDE}, {_SIDE}]"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]> rate ({shape} x) => ({shape} y) {{ y = MatMul(x, w) }}'
    )
    matrix = torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    model.graph.initializer.append(onnx.numpy_helper.from_array(matrix.numpy(), "w"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rate.onnx"
        onnx.save(model, path)
        runner = OnnxRunner(path, provider, threads)
    return lambda _: runner(matrix)


def _run_all(
    candidates: Mapping[str, Callable[[Tensor], object]], x: Tensor, progress: Progress | None = None
) -> tuple[Times, dict[str, Outputs]]:
    """Times and outputs, those on the CPU."""
    found = {name: run_module(candidate, x) for name, candidate in candidates.items()}
    outputs = {name: tuple(output.cpu() for output in outputs) for name, outputs in found.items()}
    runs = {name: partial(_run_once, candidate, x) for name, candidate in candidates.items()}
    return interleave(runs, progress=progress), outputs


def _run_once(candidate: Callable[[Tensor], object], x: Tensor) -> None:
    candidate(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _error(outputs: Outputs, exact: Outputs) -> float:
    """The worst distance over all outputs, each over its largest value; what is not finite is worst."""
    errors = [0.0]
    for found, truth in zip(outputs, exact, strict=True):
        if not torch.equal(found, truth):
            scale = largest(truth)
            errors.append(distance(found, truth) / scale if scale else math.inf)
    return max(errors, key=lambda error: (not math.isfinite(error), error))


def provider_named(name: str) -> str:
    """The full name of a provider that this ONNX Runtime has; BenchError where it has none of that name.

    >>> provider_named("cpu")
    'CPUExecutionProvider'
    """
    available = [found for found in onnxruntime.get_available_providers() if found != _REMOTE]
    names = {provider.removesuffix(_ENDING).lower(): str(provider) for provider in available}
    found = names.get(name.lower().removesuffix(_ENDING.lower()))
    if found is None:
        raise BenchError(f"this ONNX Runtime has no execution provider {name!r}; it has: {', '.join(names)}")
    return found


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name(device: torch.device) -> str:
    """As the system gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    try:
        found = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
