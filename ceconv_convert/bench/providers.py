"""What candidates run on: ONNX Runtime's execution providers, by name or short form, and cores."""

from __future__ import annotations

import os

import onnxruntime

from ceconv_convert.errors import BenchError

_ENDING = "ExecutionProvider"
_ELSEWHERE = "AzureExecutionProvider"
"""It sends single operators to a service; networks run on the CPU all the same."""


def provider_named(name: str) -> str:
    """The full name of a provider that this ONNX Runtime has.

    Raises:
        BenchError: where it has none of that name, listing those that it has.

    >>> provider_named("cpu")
    'CPUExecutionProvider'
    """
    available = [found for found in onnxruntime.get_available_providers() if found != _ELSEWHERE]
    for provider in available:
        if name.lower() in (provider.lower(), provider.removesuffix(_ENDING).lower()):
            return str(provider)
    known = ", ".join(provider.removesuffix(_ENDING).lower() for provider in available)
    raise BenchError(f"this ONNX Runtime has no execution provider {name!r}; it has: {known}")


def check_provider(asked: str, used: str) -> None:
    """Raise BenchError where a session runs on another provider than asked for, as without its libraries."""
    if used != asked:
        raise BenchError(f"{asked} does not load here: ONNX Runtime took {used} in its place")


def check_threads(asked: int | None) -> None:
    """Raise BenchError for more threads than cores: they measure the machine's scheduler."""
    if asked is not None and asked > cores():
        raise BenchError(f"{asked} threads were asked for, and {cores()} cores are here")


def cores() -> int:
    """That this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
