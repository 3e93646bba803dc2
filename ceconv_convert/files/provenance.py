"""Where a written file comes from: plain data that goes into it, under one key."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

KEY = "ceconv_convert"
_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "numpy")

Record = dict[str, object]
"""Only what JSON and every unpickler know: texts, numbers, lists and dicts."""


def record(
    source: str,
    sha256: str | None,
    form: str | None,
    layers: Iterable[Mapping[str, object]],
    verdict: Mapping[str, object] | None,
) -> Record:
    """What is known of a conversion.

    Args:
        source: the name of the file converted, or of the class of a live module.
        sha256: of the file's bytes; None for a live module.
        form: as planned, or ``ceconv`` for weights that went back; None where nothing is converted.
        layers: one a converted layer.
        verdict: on what is written; None where no network was run.
    """
    return {
        "tool": f"ceconv-convert {version('ceconv-convert')}",
        "source": source,
        "source_sha256": sha256,
        "form": form,
        "versions": {"python": platform.python_version(), **_versions()},
        "layers": [dict(layer) for layer in layers],
        "verdict": None if verdict is None else dict(verdict),
    }


def as_text(found: Record) -> str:
    """The record as one line of JSON, for formats that hold texts alone."""
    return json.dumps(found, ensure_ascii=False)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
