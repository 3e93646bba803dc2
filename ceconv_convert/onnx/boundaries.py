"""Where each color-equivariant layer begins and ends in an ONNX file: a text beside the graph.

A graph has no modules. With the names of its input and output values, a layer can be run by itself.
"""

import ast
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import onnx_ir as ir

LAYERS = "ceconv_convert.layers"
"""The key of the text in a file's ``metadata_props``."""
_SCOPES = "pkg.torch.onnx.name_scopes"
_NAMED = TypeVar("_NAMED", str, ir.Value)


@dataclass(frozen=True)
class Folded:
    """A batch norm that was folded into a layer: its module's path, or None where that is not known.

    Of several summands that take up a norm only one ``shifts``.
    """

    module: str | None
    shifts: bool


@dataclass(frozen=True)
class Boundary(Generic[_NAMED]):
    """A layer by its module's path, with its input and output: in a graph the values, in a file their names.

    A name is empty where the graph has lost the value. ``major_in`` and ``major_out`` say whether the input
    and the output are in rotation-major layout, ``[B, N, C', H, W]`` or ``[B, N·C', H, W]`` with C' ≥ C; else
    they are as in PyTorch, ``[B, C, N, H, W]``. ``norms`` were folded into the layer, in order.
    """

    layer: str
    input: _NAMED
    output: _NAMED
    major_in: bool = False
    major_out: bool = False
    norms: tuple[Folded, ...] = ()


def boundaries_as_text(graph: ir.Graph, boundaries: Iterable[Boundary[ir.Value]]) -> str:
    """The text for the file, with the names that the values have now."""

    def name(value: ir.Value) -> str:
        return (value.name or "") if value.graph is graph else ""

    named = [{**vars(each), "input": name(each.input), "output": name(each.output)} for each in boundaries]
    return json.dumps(named, default=vars)  # of folded norms


def boundaries_of(texts: Mapping[str, str]) -> list[Boundary[str]]:
    """The layers of a file by its texts; none where there is no such text, or one of another form.

    >>> boundaries_of({LAYERS: '[{"layer": "conv1", "input": "x", "output": "y", "norms": []}]'})
    [Boundary(layer='conv1', input='x', output='y', major_in=False, major_out=False, norms=())]
    """
    try:
        found = [
            Boundary(**{**entry, "norms": tuple(Folded(**norm) for norm in entry["norms"])})
            for entry in json.loads(texts.get(LAYERS, "[]"))
        ]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []
    names = (name for boundary in found for name in (boundary.layer, boundary.input, boundary.output))
    return found if all(isinstance(name, str) for name in names) else []


def module_of(node: ir.Node) -> str | None:
    """The path of a node's module, as torch's exporter notes it; None where it does not."""
    try:
        # The modules from the outside, then the operator: ['', 'layers.0', 'layers.0.conv1', 'conv2d'].
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None


def boundaries_of_modules(graph: ir.Graph, names: Collection[str]) -> list[Boundary[ir.Value]]:
    """The boundaries of the layers ``names``, as far as the exporter's notes tell.

    Each call of a layer has one convolution with its weight, into which the exporter may have folded the norm
    behind it. Nodes of the same module behind that belong to the layer, and so do the nodes of any layer
    before its convolution: two layers may share those. A call that this does not tell apart is left out.
    """
    modules = {node: module_of(node) for node in graph}
    weights = {f"{name}.weight" if name else "weight": name for name in names}
    convolutions = {
        node: weights[node.inputs[1].name]
        for node in graph
        if node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].name in weights
    }

    def behind(name: str, node: ir.Node) -> set[ir.Node]:
        consumers = {consumer for value in _features(node.outputs) for consumer in value.consumers()}
        return {found for found in consumers - convolutions.keys() if modules.get(found) == name}

    tails = {node: _reached(node, partial(behind, name)) for node, name in convolutions.items()}
    all_tails = set().union(*tails.values())

    def ahead(node: ir.Node) -> set[ir.Node]:
        producers = {value.producer() for value in _features(node.inputs)} - all_tails
        return {found for found in producers if found is not None and modules.get(found) in names}

    found = []
    for convolution, name in convolutions.items():
        tail = tails[convolution]
        part = tail | _reached(convolution, ahead)
        inputs = {value for node in part for value in _features(node.inputs) if value.producer() not in part}
        ends = {value for node in tail for value in _features(node.outputs)}
        outputs = {value for value in ends if value.is_graph_output() or set(value.consumers()) - part}
        shared = any(consumer in convolutions for value in outputs for consumer in value.consumers())
        if len(inputs) == len(outputs) == 1 and not shared:
            norm = modules[convolution]
            norms = () if norm == name else (Folded(norm, shifts=True),)
            found.append(Boundary(name, inputs.pop(), outputs.pop(), norms=norms))
    return found


def _reached(start: ir.Node, neighbours: Callable[[ir.Node], set[ir.Node]]) -> set[ir.Node]:
    found, edge = {start}, [start]
    while edge:
        new = neighbours(edge.pop()) - found
        found |= new
        edge += new
    return found


def _features(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    """Those of ``values`` that are floating-point, and no constants."""
    there = [value for value in values if value is not None and value.const_value is None]
    return [value for value in there if value.dtype is not None and value.dtype.is_floating_point()]
