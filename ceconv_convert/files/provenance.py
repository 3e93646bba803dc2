"""Outputs that say where they come from: modules, checkpoints and tensors with a record under one key.

What writes raises OutputError where the file cannot be written.
"""

import copy
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from ceconv_convert.files.safetensors_io import write_stored
from ceconv_convert.files.system import writing

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
    """What is known of a conversion; ``source`` names a file, or a live module's class.

    ``form`` is ``ceconv`` for weights that went back, and None where nothing is converted.
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


def save_module(model: nn.Module, path: Path, made: Record | None = None) -> None:
    """A whole module, with its record as an attribute; ``model`` itself is not changed."""
    annotated = copy.copy(model)
    if made is not None:
        vars(annotated)[KEY] = made
    save_object(annotated, path)


def save_object(thing: object, path: Path) -> None:
    """A module or a checkpoint, as ``torch.save`` does."""
    # torch's own file object may fail a second time when it is closed.
    with writing(path.name), path.open("wb") as file:
        torch.save(thing, file)


def save_tensors(state: Mapping[str, Tensor], path: Path, made: Record | None = None) -> None:
    """A state dict as safetensors, with its record in the metadata; tied tensors are written once each."""
    metadata = {"format": "pt"} | ({KEY: as_text(made)} if made else {})
    write_stored(path, state, state.__getitem__, metadata)
