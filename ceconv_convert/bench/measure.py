"""Measure candidates: ONNX files in ONNX Runtime, and modules in PyTorch beside them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from ceconv_convert.bench.probe import probe
from ceconv_convert.bench.timing import interleave, median
from ceconv_convert.errors import BenchError
from ceconv_convert.graph import OnnxRunner, multiplications

Progress = Callable[[int, int], None]
_MATRIX = 1024


@dataclass(frozen=True)
class Row:
    """A candidate.

    Attributes:
        name: of the form.
        runtime: ``onnx`` or ``torch``.
        seconds: the median.
        runs: how many it is of.
        ratio: how many times as fast as the original in the same runtime; None without one.
        error: worst distance of the output from the original's, over its largest value.
        size: bytes of the file; None for modules.
        load: seconds until a session is there.
        memory: bytes at the peak, from before the load to after a run.
        multiplications: in a run.
        limit: seconds that these take at the measured rate.
    """

    name: str
    runtime: str
    seconds: float
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
        rate: multiplications a second in a large matrix product, same runtime and threads.
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
    """
    count = threads or os.cpu_count() or 1
    runners = {name: OnnxRunner(path, provider, count) for name, path in files.items()}
    outputs = {("onnx", name): run(x)[0] for name, run in runners.items()}
    times = interleave({name: _bound(run, x) for name, run in runners.items()}, progress=progress)
    runners.clear()
    rate = _rate(provider, count)
    device = torch.device("cuda" if provider.startswith("CUDA") and torch.cuda.is_available() else "cpu")
    with _torch_threads(count), torch.inference_mode():
        moved = {name: module.to(device) for name, module in modules.items()}
        image = x.to(device)
        outputs |= {("torch", name): _first(module(image)).cpu() for name, module in moved.items()}
        eager = interleave({name: _bound(module, image, device) for name, module in moved.items()})
    exact = outputs.get(("torch", baseline), outputs.get(("onnx", baseline)))
    rows = []
    for name, path in files.items():
        found = probe(path, provider, count, x.shape)
        products = multiplications(path, x[:1]) * len(x)
        row = replace(
            _timed(name, "onnx", times, baseline, exact, outputs),
            size=_size(path),
            load=found.load,
            memory=found.memory,
            multiplications=products,
            limit=products / rate,
        )
        rows.append(row)
    rows += [_timed(name, "torch", eager, baseline, exact, outputs) for name in modules]
    return Bench(tuple(x.shape), count, provider, _processor(), rate, tuple(rows))


def _timed(
    name: str,
    runtime: str,
    times: Mapping[str, list[float]],
    baseline: str,
    exact: Tensor | None,
    outputs: Mapping[tuple[str, str], Tensor],
) -> Row:
    seconds = median(times[name])
    ratio = median(times[baseline]) / seconds if baseline in times else None
    error = 0.0
    if exact is not None:
        error = float((outputs[runtime, name] - exact).abs().max() / exact.abs().max())
    return Row(name, runtime, seconds, len(times[name]), ratio, error)


def _bound(
    run: Callable[[Tensor], object], x: Tensor, device: torch.device | None = None
) -> Callable[[], object]:
    def once() -> None:
        run(x)
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    return once


def _rate(provider: str, threads: int) -> float:
    """Multiplications a second of a matrix product as large as a network's are, in the same runtime."""
    kind = onnx.TensorProto.FLOAT
    sides = [onnx.helper.make_tensor_value_info(name, kind, [_MATRIX, _MATRIX]) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(torch.rand(_MATRIX, _MATRIX).numpy(), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "rate", sides[:1], sides[1:], [weight])
    opset = onnx.helper.make_opsetid("", 18)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rate.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
        run = _bound(OnnxRunner(path, provider, threads), torch.rand(_MATRIX, _MATRIX))
        times = interleave({"rate": run}, seconds=1.0)["rate"]
    return _MATRIX**3 / median(times)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first(output: object) -> Tensor:
    while not isinstance(output, Tensor):
        if not isinstance(output, (Mapping, Sequence)):
            raise BenchError(f"the network gives {type(output).__name__}, where tensors were expected")
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


def _size(path: Path) -> int:
    """Of the file, and of the weights beside it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def _processor() -> str:
    """The processor's name, where the system tells."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{found[0] if found else name}, {torch.backends.cpu.get_cpu_capability()}"
