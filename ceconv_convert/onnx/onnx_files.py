"""What an ONNX file consists of, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message


def data_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its weights.

    None of a file that is no model: whoever runs it says why.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError):
        return ()
    places = (
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    return tuple(path.parent / place for place in dict.fromkeys(places))


def path_or_bytes(path: Path) -> str | bytes:
    """What ONNX and its runtime can open: a path, or the bytes of a file whose path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All in a message: weights, attributes, those of graphs within graphs and of functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _tensors(inner)
