"""ONNX Runtime's execution providers, by their names or the short forms of these."""

from __future__ import annotations

import onnxruntime

from ceconv_convert.errors import BenchError

_ENDING = "ExecutionProvider"


def provider_named(name: str) -> str:
    """The full name of a provider that this ONNX Runtime has.

    Raises:
        BenchError: where it has none of that name, listing those that it has.

    >>> provider_named("cpu")
    'CPUExecutionProvider'
    """
    available = onnxruntime.get_available_providers()
    for provider in available:
        if name.lower() in (provider.lower(), provider.removesuffix(_ENDING).lower()):
            return str(provider)
    known = ", ".join(provider.removesuffix(_ENDING).lower() for provider in available)
    raise BenchError(f"this ONNX Runtime has no execution provider {name!r}; it has: {known}")
