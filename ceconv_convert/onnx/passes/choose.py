"""Choose the form of every layer, and how many channels every region's planes have, by the cost model.

Values between the same operators have the same channels: a class. The cost of a layer depends on the classes
of its input and output, and the best choice is looked for one class at a time, from three beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from ceconv_convert.kernel import cyclic_fourier as fourier
from ceconv_convert.kernel import hue_rotation as hue
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.onnx.dialect import DOMAIN, PLANES_LAYER, Layer, is_dialect, layer_of
from ceconv_convert.onnx.passes import costs
from ceconv_convert.onnx.passes.costs import FOURIER, Shape, up_to
from ceconv_convert.onnx.passes.planes import planes_of

_ROUNDS = 6


@dataclass(frozen=True)
class Choice:
    """How one layer is written.

    Attributes:
        layer: its path.
        form: ``direct``, one convolution over all rotations; ``fourier`` or ``fourier pairs``; or ``hue``.
        channels: as aligned, in and out.
        costs: of every form that applies, in multiplications.
        forced: whether the user asked for the form.
    """

    layer: str
    form: str
    channels: tuple[int, int]
    costs: Mapping[str, float]
    forced: bool = False


@dataclass(eq=False)
class _Class:
    """Values that have the same channels."""

    channels: int
    aligned: int = 0
    parent: _Class | None = None
    layers: list[_Site] = field(default_factory=list)

    def root(self) -> _Class:
        found = self
        while found.parent is not None:
            found = found.parent
        return found


@dataclass(eq=False)
class _Site:
    """A layer between two classes; an image is in none."""

    node: ir.Node
    layer: Layer
    source: _Class | None
    target: _Class
    sharing: int
    forms: list[str]


def applicable(spec: KernelSpec) -> list[str]:
    """The forms that a layer can be written in, exactly."""
    if isinstance(spec, LiftingSpec):
        return ["direct", "hue"] if hue.applies(spec) else ["direct"]
    if not fourier.applies(spec):
        return ["direct"]
    rotations, widths = spec.in_rotations, FOURIER.items()
    return ["direct", *(name for name, width in widths if rotations > width and rotations % width == 0)]


def choose(graph: ir.Graph, *, form: str, block: int) -> list[Choice]:
    """Lay a form beside every layer, and the aligned channels beside every value of planes.

    Args:
        graph: with its regions formed.
        form: ``auto``, or ``fourier`` wherever it applies.
        block: channels that the runtime takes abreast.
    """
    classes = _classes(graph)
    sites = [
        _site(node, _class_of(classes, node), classes[node.outputs[0]])
        for node in graph
        if is_dialect(node, PLANES_LAYER)
    ]
    roots = list(dict.fromkeys(found.root() for found in classes.values()))
    for site in sites:
        for end in (site.source, site.target):
            if end is not None:
                end.root().layers.append(site)
    _align(roots, sites, form, block)
    for value, found in classes.items():
        value.meta["aligned"] = found.root().aligned
    choices = []
    for site in sites:
        estimates = _estimates(site, form, block)
        best = min(estimates, key=lambda name: estimates[name])
        site.node.meta["form"] = best
        channels = (site.layer.spec.in_channels if site.source is None else site.source.root().aligned,)
        forced = form != "auto" and best in FOURIER
        everything = _estimates(site, "auto", block)
        choices.append(
            Choice(site.layer.name, best, (*channels, site.target.root().aligned), everything, forced)
        )
    return choices


def _site(node: ir.Node, source: _Class | None, target: _Class) -> _Site:
    layer = layer_of(node)
    return _Site(node, layer, source, target, _sharing(node), applicable(layer.spec))


def _class_of(classes: Mapping[ir.Value, _Class], node: ir.Node) -> _Class | None:
    """Of what a layer takes; None for an image."""
    value = node.inputs[0]
    return None if value is None else classes.get(value)


def _sharing(node: ir.Node) -> int:
    """The layers that could take one transform of what this one takes, it among them."""
    value = node.inputs[0]
    takers = () if value is None else value.consumers()
    layers = [layer_of(taker).spec for taker in takers if is_dialect(taker, PLANES_LAYER)]
    return max(1, sum(fourier.applies(spec) for spec in layers))


def _classes(graph: ir.Graph) -> dict[ir.Value, _Class]:
    found: dict[ir.Value, _Class] = {}

    def class_of(value: ir.Value) -> _Class:
        planes = planes_of(value)
        if value not in found and planes is not None:
            found[value] = _Class(planes.channels)
        return found[value].root()

    for node in graph:
        ends = [value for value in (*node.inputs, *node.outputs) if planes_of(value) is not None]
        kinds = [class_of(value) for value in ends if value is not None]
        if node.domain == DOMAIN:
            continue
        for other in kinds[1:]:
            first, second = kinds[0].root(), other.root()
            if first is not second:
                second.parent = first
    return found


def _align(roots: list[_Class], sites: list[_Site], form: str, block: int) -> None:
    """The channels of every class: of three beginnings, what is best where no class alone can better it."""
    trials: list[tuple[float, list[int]]] = []
    for start in (1, block // 2, block):
        for root in roots:
            root.aligned = up_to(root.channels, start)
        for _ in range(_ROUNDS):
            changed = [_improve(root, form, block) for root in roots]
            if not any(changed):
                break
        trials.append((sum(_cost(site, form, block) for site in sites), [root.aligned for root in roots]))
    _, best = min(trials, key=lambda trial: trial[0])
    for root, aligned in zip(roots, best, strict=True):
        root.aligned = aligned


def _improve(root: _Class, form: str, block: int) -> bool:
    before, found = root.aligned, {}
    for multiple in (1, 4, 8, 16):
        root.aligned = up_to(root.channels, multiple)
        found[root.aligned] = sum(_cost(site, form, block) for site in root.layers)
    root.aligned = min(found, key=lambda aligned: (found[aligned], aligned))
    return root.aligned != before


def _cost(site: _Site, form: str, block: int) -> float:
    return min(_estimates(site, form, block).values())


def _estimates(site: _Site, form: str, block: int) -> dict[str, float]:
    """The cost of every form that is allowed."""
    spec = site.layer.spec
    shape = Shape(
        spec.in_channels if site.source is None else site.source.root().aligned,
        site.target.root().aligned,
        spec.in_rotations,
        spec.out_rotations,
        math.prod(spec.kernel_size),
        math.prod(site.layer.size),
        math.prod(spec.out_size(site.layer.size)),
        site.sharing,
    )
    found = {"direct": costs.direct(shape, block)}
    if form == "fourier" or site.layer.dtype == torch.float32:
        widths = {name: FOURIER[name] for name in site.forms if name in FOURIER}
        transformed = {name: costs.fourier(shape, block, width) for name, width in widths.items()}
        if form == "fourier" and transformed:
            return transformed
        found |= transformed
    if "hue" in site.forms:
        found["hue"] = costs.hue(shape, block)
    return found
