"""Layers of an ONNX file by themselves: the graph is cut before each of them, and fed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from torch import Tensor

from ceconv_convert.onnx.boundaries import Boundary
from ceconv_convert.onnx.values import run_with_outputs

_BEFORE = ".before"


def run_isolated(
    path: Path, boundaries: Sequence[Boundary], features: Mapping[str, Tensor], x: Tensor
) -> list[Tensor]:
    """What each layer gives for the features that it is fed, in the order of ``boundaries``.

    Args:
        path: the file.
        boundaries: its layers.
        features: what they take, by the name of the value; of the shapes that it has on ``x``.
        x: the network's input.

    Raises:
        ExportError: where the graph cannot be cut so, or does not run.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name in features:
                node.output[index] = f"{name}{_BEFORE}"
    kept = [value for value in graph.value_info if value.name not in features]
    inputs = {value.name for value in graph.input}
    element = graph.input[0].type.tensor_type.elem_type
    new = [
        onnx.helper.make_tensor_value_info(name, element, list(tensor.shape))
        for name, tensor in features.items()
        if name not in inputs
    ]
    wanted = [f"{name}{_BEFORE}" if name in features else name for name in (b.output for b in boundaries)]
    del graph.value_info[:], graph.output[:]
    graph.value_info.extend(kept)
    graph.input.extend(new)
    fed = {graph.input[0].name: x, **features}
    found = run_with_outputs(path, model, list(dict.fromkeys(wanted)), fed)
    return [found[name] for name in wanted]
