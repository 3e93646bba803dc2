"""Choose the form of every layer, and the channel padding of every rotation-major value, by the cost model.

Values between the same operators have the same channels: a group. The cost of a layer depends on the padding
of two groups, its input's and its output's; the cheapest padding is found by coordinate descent, from three
starting points.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from ceconv_convert.forms.table import TABLE, Form
from ceconv_convert.kernel.factored import Factored
from ceconv_convert.kernel.spec import Pair
from ceconv_convert.onnx.dialect import DOMAIN, MAJOR_LAYER, Layer, is_dialect, layer_of, layout_of, notes
from ceconv_convert.onnx.passes.cost_models import CostModel
from ceconv_convert.onnx.passes.costs import up_to

_ROUNDS = 6
_NAMED = 4
"""Layers that a line on an exceptional form names."""


@dataclass(frozen=True)
class Choice:
    """How one layer is written."""

    layer: str  # its path
    form: str  # the name of its row in the table of forms
    channels: Pair  # with their padding, in and out
    costs: Mapping[str, float]  # of every form that applies, in multiplications
    forced: bool = False  # whether the user requested the form


@dataclass(frozen=True, eq=False)
class _Site:
    """A layer in the graph."""

    node: ir.Node
    layer: Layer
    source: int | None  # the group of its input; None for an image
    target: int  # the group of its output
    forms: Mapping[Form, Factored]  # that apply to it, with factors of one output channel: enough to count by
    requested: Sequence[Form]  # those of them that the user requested
    sharing: int  # how many layers take the same input, and could share it mixed

    def channels(self, padding: Sequence[int]) -> Pair:
        """I' and O'."""
        source = self.layer.spec.in_channels if self.source is None else padding[self.source]
        return source, padding[self.target]

    def costs(self, padding: Sequence[int], model: CostModel) -> dict[Form, float]:
        size, channels = self.layer.size, self.channels(padding)
        pixels = (math.prod(size), math.prod(self.layer.spec.out_size(size)))
        return {
            form: model.layer(factors, channels, pixels, sharing=self.sharing)
            for form, factors in self.forms.items()
        }

    def best(self, costs: Mapping[Form, float]) -> Form:
        """The cheapest, among those requested if any are."""
        return min(self.requested or self.forms, key=lambda form: costs[form])

    def lowest_cost(self, padding: Sequence[int], model: CostModel) -> float:
        costs = self.costs(padding, model)
        return costs[self.best(costs)]


def choose(graph: ir.Graph, *, form: str, model: CostModel) -> list[Choice]:
    """Note the form of every layer, and the padded channels of every rotation-major value.

    ``form`` is ``auto``, or ``fourier`` or ``conv2d``, wherever it applies.
    """
    groups = _channel_groups(graph)
    index = {value: number for number, group in enumerate(groups) for value in group}
    sites = _sites(graph, index, form)
    channels = [layout.channels for group in groups if (layout := layout_of(group[0])) is not None]
    padding = min(
        (_descend(channels, sites, start, model) for start in (1, model.block // 2, model.block)),
        key=lambda trial: sum(site.lowest_cost(trial, model) for site in sites),
    )
    for value, number in index.items():
        layout = layout_of(value)
        if layout is not None:
            notes(value).layout = dataclasses.replace(layout, padded=padding[number])
    choices = []
    for site in sites:
        costs = site.costs(padding, model)
        best = site.best(costs)
        notes(site.node).form = best
        named = {row.name: cost for row, cost in costs.items()}
        choices.append(
            Choice(site.layer.name, best.name, site.channels(padding), named, forced=bool(site.requested))
        )
    return choices


def _channel_groups(graph: ir.Graph) -> list[list[ir.Value]]:
    """The rotation-major values that have the same channels: operators between layers do not change them."""
    found: dict[ir.Value, list[ir.Value]] = {}
    for node in graph:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and layout_of(v) is not None]
        for value in values:
            found.setdefault(value, [value])
        for value in () if node.domain == DOMAIN else values[1:]:
            group, other = found[values[0]], found[value]
            if group is not other:
                group += other
                found.update(dict.fromkeys(other, group))
    return list({id(group): group for group in found.values()}.values())


def _sites(graph: ir.Graph, index: Mapping[ir.Value, int], form: str) -> list[_Site]:
    forms = {node: _forms(layer_of(node), form) for node in graph if is_dialect(node, MAJOR_LAYER)}
    mixing = [node for node in forms if any(factors.forward is not None for factors in forms[node].values())]
    mixed = Counter(node.inputs[0] for node in mixing)
    sites = []
    for node, factors in forms.items():
        source, requested = node.inputs[0], [row for row in factors if row.is_requested_as(form)]
        number = None if source is None else index.get(source)
        target = index[node.outputs[0]]
        sharing = max(1, mixed[source])
        sites.append(_Site(node, layer_of(node), number, target, factors, requested, sharing))
    return sites


def _forms(layer: Layer, form: str) -> dict[Form, Factored]:
    """The forms that a layer may be written in; one that mixes its input needs the digits of float32."""
    sample = dataclasses.replace(layer.spec, weight=layer.spec.weight[:1], bias=None)
    return {
        row: factors
        for row in TABLE
        if row.factors is not None and row.applies(layer.spec)
        for factors in (row.factors(sample),)
        if factors.forward is None or layer.spec.dtype == torch.float32 or row.is_requested_as(form)
    }


def _descend(channels: Sequence[int], sites: Sequence[_Site], start: int, model: CostModel) -> list[int]:
    """The padded channels of every group by coordinate descent, from multiples of ``start``."""
    padding = [up_to(count, start) for count in channels]
    for _ in range(_ROUNDS):
        before = list(padding)
        for number, count in enumerate(channels):
            near = [site for site in sites if number in (site.source, site.target)]
            costs = {}
            for padded in sorted({up_to(count, multiple) for multiple in (1, 4, 8, 16)}):
                trial = [*padding[:number], padded, *padding[number + 1 :]]
                costs[padded] = sum(site.lowest_cost(trial, model) for site in near)
            padding[number] = min(costs, key=costs.__getitem__)
        if padding == before:
            break
    return padding


def choices_as_lines(choices: Sequence[Choice]) -> list[str]:
    """A line on how many layers have which form, and one on each form that is an exception, with the reason.

    >>> choices_as_lines([Choice("conv1", "conv2d", (3, 8), {"conv2d": 2e6})])
    ['1 × conv2d']
    """
    counts = Counter(choice.form for choice in choices).most_common()
    lines: list[str] = []
    for form, _ in counts:
        found = [choice for choice in choices if choice.form == form]
        if lines:
            shown = [f"{choice.layer or '(root)'} ({_reason(choice)})" for choice in found[:_NAMED]]
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            lines.append(f"{form}: {', '.join(shown)}{more}")
        else:
            lines.append(", ".join(f"{count} × {name}" for name, count in counts) + _compared(found))
    return lines


def _next_best(choice: Choice) -> tuple[float, str]:
    """The cost of the cheapest other form, in that of the chosen one, and its name."""
    others = ((cost / choice.costs[choice.form], name) for name, cost in choice.costs.items())
    return min((other for other in others if other[1] != choice.form), default=(0.0, ""))


def _compared(choices: Sequence[Choice]) -> str:
    """By how much the form that most layers have is better than the next best one, by estimate."""
    factors = [_next_best(choice)[0] for choice in choices if len(choice.costs) > 1]
    if not factors:
        return ""
    others = {name for choice in choices for name in choice.costs if name != choice.form}
    low, high = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"; {' or '.join(sorted(others))} would cost {low if low == high else f'{low} to {high}'}×"


def _reason(choice: Choice) -> str:
    if choice.forced:
        return "as requested"
    factor, name = _next_best(choice)
    return f"{name} would cost {factor:.2f}×" if name else "no other form is exact"
