"""Where a written file comes from: plain data that is stored in the file under one key."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

KEY = "ceconv_convert"
_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "numpy")

Record = dict[str, object]
"""Strings, numbers, lists and dicts alone, as JSON and every unpickler know them."""


def record(
    source: str,
    sha256: str | None,
    form: str | None,
    layers: Iterable[Mapping[str, object]],
    verdict: Mapping[str, object] | None,
) -> Record:
    """What is known of a conversion; ``source`` is a file's name, or the class of a live module.

    ``form`` is as planned, ``ceconv`` for weights that went back, or None where nothing is converted.
    """
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "tool": f"ceconv-convert {version('ceconv-convert')}",
        "source": source,
        "source_sha256": sha256,
        "form": form,
        "versions": versions,
        "layers": list(layers),
        "verdict": verdict,
    }


def as_text(found: Record) -> str:
    """The record as one line of JSON, for formats that store strings alone."""
    return json.dumps(found, ensure_ascii=False)
