"""Texts beside an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from ceconv_convert.errors import OutputError


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
