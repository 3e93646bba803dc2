"""Planes in the two ranks that operators want, ``[B, N·C', H, W]`` and ``[B, N, C', H, W]``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ceconv_convert.onnx.passes.tools import add_constant, insert

FLAT, SPLIT = 4, 5
"""The ranks of ``[B, N·C', H, W]`` and of ``[B, N, C', H, W]``."""


class Views:
    """Reshapes between the ranks, each made once; height and width stay dynamic."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._ranks: dict[ir.Value, int] = {}
        self._made: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        self._sizes: dict[ir.Value, ir.Value] = {}
        self._same: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[int, ...], ir.Value] = {}

    def give(self, value: ir.Value, rank: int, *, as_large_as: ir.Value | None = None) -> ir.Value:
        """Say in which rank a value of planes is; and which value has its height and width, if one has."""
        self._ranks[value] = rank
        if as_large_as is not None:
            self._same[value] = self.size_source(as_large_as)
        return value

    def rank(self, value: ir.Value) -> int:
        """The rank that a value of planes was made in; an image is flat."""
        return self._ranks.get(value, FLAT)

    def size_source(self, value: ir.Value) -> ir.Value:
        """The value that has the height and width of ``value``, as far as is known."""
        return self._same.get(value, value)

    def flat(self, before: ir.Node, value: ir.Value, planes: int) -> ir.Value:
        """``[B, planes, H, W]``."""
        return value if self.rank(value) == FLAT else self._view(before, value, (planes,))

    def split(self, before: ir.Node, value: ir.Value, rotations: int, channels: int) -> ir.Value:
        """``[B, rotations, channels, H, W]``."""
        return value if self.rank(value) == SPLIT else self._view(before, value, (rotations, channels))

    def _view(self, before: ir.Node, value: ir.Value, middle: tuple[int, ...]) -> ir.Value:
        key = (value, middle)
        if key not in self._made:
            head = self._constant((0, *middle))  # 0: the batch, as it is
            shape = insert(before, "Concat", [head, self._size(before, value)], {"axis": 0})
            view = insert(before, "Reshape", [value, shape])
            self._made[key] = self.give(view, len(middle) + 3, as_large_as=value)
        return self._made[key]

    def _size(self, before: ir.Node, value: ir.Value) -> ir.Value:
        source = self.size_source(value)
        if source not in self._sizes:
            # Of the value at hand: what has the same size may lie behind, in another form.
            self._sizes[source] = insert(before, "Shape", [value], {"start": self.rank(value) - 2})
        return self._sizes[source]

    def _constant(self, numbers: tuple[int, ...]) -> ir.Value:
        if numbers not in self._constants:
            name = "shape_" + "_".join(map(str, numbers[1:]))
            self._constants[numbers] = add_constant(self._graph, name, np.array(numbers, dtype=np.int64))
        return self._constants[numbers]
