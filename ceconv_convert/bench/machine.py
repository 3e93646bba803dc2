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
