"""ONNX files: what they consist of, and whether they are valid."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.files.system import stat_of


def onnx_files(path: Path) -> tuple[Path, ...]:
    """An ONNX file, and the files beside it with its weights; UnreadableInputError if one is no file."""
    stat_of(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError):
        return (path,)  # ONNX Runtime says what is wrong with it
    external = (t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL)
    entries = (entry for tensor in external for entry in tensor.external_data)
    names = dict.fromkeys(entry.value for entry in entries if entry.key == "location")
    beside = tuple(path.parent / name for name in names)
    for file in beside:
        stat_of(file)
    return (path, *beside)


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All in a message: weights, attributes, those of graphs within graphs and of functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _tensors(inner)


def path_or_bytes(path: Path) -> str | bytes:
    """What ONNX and its runtime can open: a path, or the bytes of a file whose path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def check_file(path: Path) -> None:
    """Raise ExportError where a file is not valid, shapes inferred, or has non-standard operators."""
    try:
        onnx.checker.check_model(path_or_bytes(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the file: {first_line(error)}") from error
    model = ir.load(path)
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in nodes if n.domain not in ("", "ai.onnx")})
    foreign += [f"function {function.name}" for function in model.functions.values()]
    if foreign:
        raise ExportError(f"the file needs more than standard operators: {', '.join(foreign)}")
