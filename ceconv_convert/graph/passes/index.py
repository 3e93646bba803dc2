"""Who makes a value and who takes it, in a graph that is being changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class GraphIndex:
    """A graph with its producers, consumers and constants at hand; nodes stay in an order that runs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._count = 0
        self.settled: set[str] = set()

    def producer(self, value: str) -> onnx.NodeProto | None:
        """The node that makes ``value``; None for inputs and constants."""
        return next((node for node in self.nodes if value in node.output), None)

    def consumers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that take ``value``."""
        return [node for node in self.nodes if value in node.input]

    def is_inner(self, value: str) -> bool:
        """Whether one node alone takes ``value``, and it is no output of the graph."""
        return value not in self._outputs and len(self.consumers(value)) == 1

    def constant(self, value: str) -> NDArray[np.float64] | None:
        """The numbers of a constant, in float64; None where ``value`` is none."""
        tensor = self._constants.get(value)
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)

    def dtype_of(self, value: str) -> np.dtype[np.generic]:
        """The dtype of a constant."""
        return numpy_helper.to_array(self._constants[value]).dtype

    def add_constant(self, like: str, numbers: NDArray[np.generic]) -> str:
        """A further constant, under a name made from ``like``."""
        name = self.fresh(like)
        tensor = numpy_helper.from_array(np.ascontiguousarray(numbers), name)
        self._constants[name] = tensor
        self.graph.initializer.append(tensor)
        return name

    def fresh(self, like: str) -> str:
        """A name that no value has yet."""
        taken = {name for node in self.nodes for name in node.output} | self._constants.keys()
        while (name := f"{like}_{self._count}") in taken:
            self._count += 1
        self._count += 1
        return name

    def insert_after(self, node: onnx.NodeProto, added: onnx.NodeProto) -> None:
        """Put a node right behind another one."""
        self.nodes.insert(self.nodes.index(node) + 1, added)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out; its outputs must have no takers left."""
        self.nodes.remove(node)

    def replace_uses(self, old: str, new: str, among: Sequence[onnx.NodeProto]) -> None:
        """Let ``among`` take another value."""
        for node in among:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def is_output(self, value: str) -> bool:
        """Whether ``value`` is an output of the graph."""
        return value in self._outputs

    def commit(self) -> None:
        """Write the nodes back, without those whose outputs nobody takes, nor constants that nobody takes."""
        while True:
            taken = {name for node in self.nodes for name in node.input} | self._outputs
            alive = [node for node in self.nodes if any(name in taken for name in node.output)]
            if len(alive) == len(self.nodes):
                break
            self.nodes = alive
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        kept = [tensor for tensor in self.graph.initializer if tensor.name in taken]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        made = {name for node in self.nodes for name in node.output} - self._outputs
        infos = [info for info in self.graph.value_info if info.name in made]
        del self.graph.value_info[:]
        self.graph.value_info.extend(infos)


def attribute(node: onnx.NodeProto, name: str) -> object:
    """An attribute's value; None where the node has none of that name."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return None if found is None else onnx.helper.get_attribute_value(found)
