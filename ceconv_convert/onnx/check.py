"""What an ONNX file must be before anyone runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ceconv_convert.errors import ExportError, first_line
from ceconv_convert.onnx.onnx_files import path_or_bytes


def check_file(path: Path) -> None:
    """The ONNX checker with full shape inference, and standard operators only.

    Raises:
        ExportError: where the file is not valid, or names another domain's operators.
    """
    try:
        onnx.checker.check_model(path_or_bytes(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the file: {first_line(error)}") from error
    model = onnx.load(path, load_external_data=False)
    foreign = sorted(
        {f"{n.domain}::{n.op_type}" for n in all_nodes(model.graph) if n.domain not in ("", "ai.onnx")}
    )
    if foreign or model.functions:
        names = ", ".join(foreign + [f"function {function.name}" for function in model.functions])
        raise ExportError(f"the file needs more than standard operators: {names}")


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)
