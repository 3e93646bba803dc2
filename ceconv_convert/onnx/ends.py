"""Where the layers of a graph begin and end, while it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ceconv_convert.onnx.boundaries import Boundary, Folded
from ceconv_convert.onnx.origin import module_of


@dataclass(frozen=True, eq=False)
class Ends:
    """A ``Boundary`` whose values may still be renamed."""

    layer: str
    input: ir.Value
    output: ir.Value
    major_in: bool = False
    major_out: bool = False
    norms: tuple[Folded, ...] = ()


def boundaries_in(graph: ir.Graph, found: Iterable[Ends]) -> list[Boundary]:
    """The boundaries by the names that values have now; a value that is gone has none."""
    there = {*graph.inputs, *(value for node in graph for value in node.outputs)}
    return [
        Boundary(
            ends.layer,
            (ends.input.name or "") if ends.input in there else "",
            (ends.output.name or "") if ends.output in there else "",
            ends.major_in,
            ends.major_out,
            ends.norms,
        )
        for ends in found
    ]


def ends_of_modules(graph: ir.Graph, names: Collection[str]) -> list[Ends]:
    """The ends of the layers ``names``, as far as the exporter's notes tell.

    Each call of a layer has one convolution with its weight, into which the exporter may have folded the norm
    behind it. What comes from the same module behind that belongs to the layer, and so does what any layer
    does before its convolution: two layers may share that. A call that this does not tell apart is left out.
    """
    weights = {f"{name}.weight" if name else "weight": name for name in names}
    mains = {node: weights[weight] for node in graph if (weight := _weight_of(node)) in weights}
    tails = {main: _behind(main, name, mains) for main, name in mains.items()}
    behind = set().union(*tails.values())
    found = []
    for main, name in mains.items():
        part = tails[main] | _ahead(main, names, behind)
        inputs = {value for node in part for value in _features(node.inputs) if value.producer() not in part}
        outputs = {value for node in tails[main] for value in node.outputs if _leaves(value, part)}
        alone = not any(taker in mains for value in outputs for taker in value.consumers() if taker in behind)
        if alone and len(inputs) == len(outputs) == 1:
            norm = module_of(main)
            norms = () if norm == name else (Folded(norm, shifts=True),)
            found.append(Ends(name, inputs.pop(), outputs.pop(), norms=norms))
    return found


def _weight_of(node: ir.Node) -> str | None:
    return node.inputs[1].name if node.op_type == "Conv" and node.inputs[1] is not None else None


def _behind(main: ir.Node, name: str, mains: Collection[ir.Node]) -> set[ir.Node]:
    """A layer's convolution, and the nodes of its module that take what it gives."""
    found, edge = set(), [main]
    while edge:
        node = edge.pop()
        found.add(node)
        takers = {taker for value in _features(node.outputs) for taker in value.consumers()}
        edge += [taker for taker in takers - found if module_of(taker) == name and taker not in mains]
    return found


def _ahead(main: ir.Node, names: Collection[str], behind: Collection[ir.Node]) -> set[ir.Node]:
    """The nodes of layers that what a convolution takes comes from, up to other layers' results."""
    found: set[ir.Node] = set()
    edge = [main]
    while edge:
        givers = {value.producer() for value in _features(edge.pop().inputs)}
        near = [node for node in givers - found if node is not None and module_of(node) in names]
        edge += [node for node in near if node not in behind]
        found |= set(edge)
    return found


def _features(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    """Those of ``values`` that are floating-point, and no constants."""
    return [
        value
        for value in values
        if value is not None
        and value.const_value is None
        and value.dtype is not None
        and value.dtype.is_floating_point()
    ]


def _leaves(value: ir.Value, part: Collection[ir.Node]) -> bool:
    """Whether a node outside takes ``value``, or the graph gives it."""
    taken = value.is_graph_output() or any(node not in part for node in value.consumers())
    return taken and bool(_features([value]))
