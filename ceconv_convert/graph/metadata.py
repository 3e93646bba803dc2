"""Texts beside an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from ceconv_convert.errors import OutputError

FOLDED = "ceconv_convert.folded"
"""The key of the layers that a norm is folded into: a graph has no features of theirs."""


def folded_layers(texts: Mapping[str, str]) -> frozenset[str]:
    """The paths of layers that a norm is folded into, as a file's texts have them; none if it does not say.

    >>> folded_layers({FOLDED: '["conv1"]'})
    frozenset({'conv1'})
    """
    try:
        found = json.loads(texts.get(FOLDED, "[]"))
    except ValueError:
        return frozenset()
    names = found if isinstance(found, list) else []
    return frozenset(name for name in names if isinstance(name, str))


def write_metadata(path: Path, texts: Mapping[str, str]) -> None:
    """Add to a file's ``metadata_props``; weights in a file beside it stay there.

    Raises:
        OutputError: where the file cannot be written.
    """
    model = onnx.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, **texts})
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written: {error.strerror}") from error
