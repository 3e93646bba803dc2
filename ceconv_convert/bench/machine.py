"""What candidates run on: ONNX Runtime's execution providers, cores, and the processor's name."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import onnxruntime
import torch

from ceconv_convert.errors import BenchError

_ENDING = "ExecutionProvider"
_REMOTE = "AzureExecutionProvider"
"""It sends single operators to a service; networks run on the CPU all the same."""


def provider_named(name: str) -> str:
    """The full name of a provider that this ONNX Runtime has.

    Raises:
        BenchError: where it has none of that name, listing those that it has.

    >>> provider_named("cpu")
    'CPUExecutionProvider'
    """
    available = [found for found in onnxruntime.get_available_providers() if found != _REMOTE]
    names = {provider.removesuffix(_ENDING).lower(): str(provider) for provider in available}
    found = names.get(name.lower().removesuffix(_ENDING.lower()))
    if found is None:
        raise BenchError(f"this ONNX Runtime has no execution provider {name!r}; it has: {', '.join(names)}")
    return found


def check_provider(wanted: str, used: str) -> None:
    """Raise BenchError where a session runs on another provider, as without a provider's libraries."""
    if used != wanted:
        raise BenchError(f"{wanted} does not load here: ONNX Runtime took {used} in its place")


def check_threads(wanted: int | None) -> None:
    """Raise BenchError for more threads than cores: they measure the machine's scheduler."""
    if wanted is not None and wanted > cores():
        raise BenchError(f"--threads {wanted} is more than the {cores()} cores here")


def cores() -> int:
    """That this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def device_for(provider: str) -> torch.device:
    """Where PyTorch runs beside a provider of ONNX Runtime."""
    return torch.device("cuda" if provider.startswith("CUDA") and torch.cuda.is_available() else "cpu")


def processor_name(provider: str) -> str:
    """As the system gives it."""
    if device_for(provider).type == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        found = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
