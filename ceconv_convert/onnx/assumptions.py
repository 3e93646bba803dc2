"""What a traced network assumes of its input's sizes.

torch.export follows one path through a forward pass. What that path assumes of symbolic sizes, as an ``if``
that it took, stands in the program as ranges and assertions. The ONNX exporter drops both: at other sizes the
file computes something else, without a word.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy
import torch

Sizes = Mapping[str, int]
"""Of the axes ``batch``, ``height`` and ``width``."""

_LARGEST = 2**12
"""Larger sizes are not tried."""
_STEP = 1.1
"""Ratio of sizes that are tried far from the example's."""
_FEW = 6
_SPECIAL = 2
"""torch takes every symbolic size for at least this, whatever the network: 0 and 1 have their own rules."""


@dataclass(frozen=True, eq=False)
class Assumption:
    """A condition over symbols that are named after the axes."""

    condition: sympy.Basic

    @property
    def axes(self) -> frozenset[str]:
        """Those that it is about."""
        return frozenset(map(str, self.condition.free_symbols))

    def holds(self, sizes: Sizes) -> bool:
        """Whether the program is right at these sizes, as far as this condition goes."""
        return _holds(self.condition, frozenset((s, sizes[str(s)]) for s in self.condition.free_symbols))

    def __str__(self) -> str:
        return str(self.condition)


@lru_cache(maxsize=2**14)  # violations asks for the same sizes again and again, half a second an export
def _holds(condition: sympy.Basic, sizes: frozenset[tuple[sympy.Symbol, int]]) -> bool:
    """What cannot be evaluated holds: torch before 2.13 has no remainder of a negative number."""
    try:
        return condition.xreplace({symbol: sympy.Integer(size) for symbol, size in sizes}) is not sympy.false
    except AssertionError:
        return True


def assumptions_of(program: torch.export.ExportedProgram, axes: Mapping[int, str]) -> list[Assumption]:
    """The conditions on the dynamic axes of a program's one input, which are named by position."""
    inputs = set(program.graph_signature.user_inputs)
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name in inputs)
    names: dict[sympy.Basic, sympy.Symbol] = {}
    conditions: list[sympy.Basic] = []
    for position, name in axes.items():
        size, named = shape[position], sympy.Symbol(name, integer=True, positive=True)
        if isinstance(size, torch.SymInt):
            first = names.setdefault(size.node.expr, named)
            if first != named:  # the network takes them to be equal
                conditions.append(sympy.Eq(first, named, evaluate=False))
    for symbol, limits in program.range_constraints.items():
        if symbol in names:
            if limits.lower.is_Integer and limits.lower > _SPECIAL:
                conditions.append(sympy.Ge(names[symbol], limits.lower))
            if limits.upper.is_Integer:
                conditions.append(sympy.Le(names[symbol], limits.upper))
    for graph in (module.graph for module in program.graph_module.modules() if hasattr(module, "graph")):
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
            value = getattr(node.args[0], "meta", {}).get("val")
            if isinstance(value, torch.SymBool):
                conditions.append(value.node.expr.subs(names))
    found = map(Assumption, conditions)
    return [assumption for assumption in found if assumption.axes and assumption.axes <= set(axes.values())]


def violations(
    assumption: Assumption, example: Sizes, others: Sequence[Assumption] = ()
) -> list[dict[str, int]]:
    """Sizes at which a condition does not hold, and as many of the ``others`` as can be; few of them.

    Every axis of the condition is moved alone, and height and width together, from a single input of the
    example's size and from a batch of two.

    >>> width = sympy.Symbol("width", integer=True, positive=True)
    >>> violations(Assumption(sympy.Eq(sympy.Mod(width, 2), 0)), {"batch": 1, "height": 8, "width": 8})[0]
    {'batch': 1, 'height': 8, 'width': 7}
    """
    numbers = (int(number) for number in assumption.condition.atoms(sympy.Integer))
    near = {number + step for number in numbers if 0 < number < _LARGEST for step in (-1, 0, 1)}
    found = []
    for start in (example, {**example, "batch": 2}):
        for moved in (*({axis} for axis in sorted(assumption.axes)), assumption.axes - {"batch"}):
            for size in sorted({*near, *_around(max(start[axis] for axis in moved or start))} - {0}):
                sizes = {**start, **dict.fromkeys(moved, size)}
                if moved and sizes not in found and not assumption.holds(sizes):
                    found.append(sizes)
    found.sort(key=lambda sizes: math.prod(sizes.values()))
    nearest = sorted(found, key=lambda sizes: sum(abs(sizes[axis] - example[axis]) for axis in sizes))
    few = [*nearest[:_FEW], *found[:_FEW]]
    return sorted(few, key=lambda sizes: sum(not other.holds(sizes) for other in others))


def _around(size: int) -> set[int]:
    """Sizes to try: all small ones, those next to ``size``, and ever fewer up to twice as large, or 64."""
    steps = {round(_STEP**power) for power in range(math.ceil(math.log(max(2 * size, 64), _STEP)) + 1)}
    return {*range(1, 10), *range(max(1, size - 5), size + 6), *steps}
