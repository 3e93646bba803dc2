"""Names and notes of an exported graph, in the exporter's own representation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

INPUT_NAME = "input"
OUTPUT_NAME = "output"


def name_ends(model: Any) -> None:
    """Name the input ``input`` and the outputs ``output``, or ``output_0``, ``output_1``, …

    A weight or an inner value that has one of these names already gets another.
    """
    graph = model.graph
    names = {graph.inputs[0]: INPUT_NAME}
    for index, value in enumerate(graph.outputs):
        names[value] = OUTPUT_NAME if len(graph.outputs) == 1 else f"{OUTPUT_NAME}_{index}"
    reserved = set(names.values())
    taken = {value.name for value in _values(graph)} | reserved
    for value in _values(graph):
        if value.name in reserved and names.get(value) != value.name:
            name = value.name
            while name in taken:
                name += "_"
            value.name = name
            taken.add(value.name)
    for value, name in names.items():
        value.name = name


def forget_origin(model: Any) -> None:
    """Drop the exporter's notes: stack traces with this machine's paths, as large as the graph itself."""
    graph = model.graph
    for item in (*graph, *_values(graph)):
        item.metadata_props.clear()


def forget_defaults(model: Any) -> None:
    """Drop attributes that say what is so anyway, and that older opsets do not have."""
    for node in model.graph:
        attribute = node.attributes.get("noop_with_empty_axes")
        if attribute is not None and not attribute.as_int():
            del node.attributes["noop_with_empty_axes"]


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in graph:
        yield from node.outputs
