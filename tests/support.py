"""What the tests share: fixtures on disk, golden cases, models moved off their initial values."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ceconv_convert import CEConv2d, GroupCosetMaxPool, GroupMaxPool2d

FIXTURES = Path(__file__).parent.parent / "fixtures"
COLOR_DIGITS = FIXTURES / "color_digits.pt"
GOLDEN_SEQUENTIAL = FIXTURES / "golden" / "checkpoints" / "whole_module_sequential.pt"


@dataclass(frozen=True, eq=False)
class GoldenLayer:
    """A layer that the published implementation computed."""

    name: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    input: Tensor
    output: Tensor
    output_float64: Tensor

    def layer(self, dtype: torch.dtype = torch.float32) -> CEConv2d:
        """Our layer with the golden parameters."""
        layer = CEConv2d(**self.arguments)
        layer.load_state_dict(self.state)
        return layer.to(dtype)


@lru_cache
def golden_layers() -> tuple[GoldenLayer, ...]:
    """All 38 of them."""
    folder = FIXTURES / "golden" / "layers"
    names = [entry["file"] for entry in json.loads((folder / "index.json").read_text())]
    return tuple(_golden(folder / name) for name in names)


def _golden(path: Path) -> GoldenLayer:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        arguments = json.loads(file.metadata()["config"])
    for remark in ("kind", "matrix", "note"):
        arguments.pop(remark, None)
    for name, value in arguments.items():
        arguments[name] = tuple(value) if isinstance(value, list) else value
    state = {name.removeprefix("param."): t for name, t in tensors.items() if name.startswith("param.")}
    return GoldenLayer(
        path.stem, arguments, state, *(tensors[n] for n in ("input", "output", "output_float64"))
    )


def relative(found: Tensor, exact: Tensor) -> float:
    """Worst absolute error over the largest output."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).abs().max() / exact.abs().max())


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter and buffer off its initial value; variances stay positive, matrices stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.dtype.is_floating_point or name.endswith("transformation_matrix"):
                continue
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            else:
                tensor.add_(0.1 * noise)
    return model


def small_network(rotations: int = 3, width: int = 5, seed: int = 0) -> nn.Sequential:
    """Lifting, separable and hidden layers with batch norm, pooling and a linear head; any image size."""
    torch.manual_seed(seed)
    n = rotations
    model = nn.Sequential(
        CEConv2d(1, n, 3, width, 3, padding=1),
        nn.BatchNorm3d(width),
        nn.ReLU(),
        GroupMaxPool2d(3, stride=2, padding=1),
        CEConv2d(n, n, width, width, 3, padding=1, bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
        CEConv2d(n, n, width, width, 3, stride=2, separable=False),
        GroupCosetMaxPool(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )
    return shake(model, seed).eval()


def same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit by bit, in the same order."""
    return list(left) == list(right) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left.values(), right.values(), strict=True)
    )


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())


def forked(function: Callable[[], object], *, seconds: int = 60) -> tuple[int, str, str]:
    """Call a function in a copy of this process: its exit code, standard output and standard error.

    Where a test needs a process of its own, but not a new one: torch takes seconds to be imported.
    """
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    child = start(function, out_end, err_end, seconds)
    os.close(out_end)
    os.close(err_end)
    with open(out) as out_file, open(err) as err_file, ThreadPoolExecutor() as pool:
        texts = pool.map(lambda file: file.read(), (out_file, err_file))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *texts


def start(function: Callable[[], object], out: int = 1, err: int = 2, seconds: int = 60) -> int:
    """Start a copy of this process that calls a function and ends: its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of the threads of runtimes
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.alarm(seconds)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        function()
        code = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)
