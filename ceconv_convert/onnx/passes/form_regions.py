"""Make regions rotation-major, so that layouts change at their boundaries alone.

Every layer starts with a boundary on both sides. The boundary behind it then moves down over operators that
act alike in both layouts:
    f(xᵀ) = f(x)ᵀ for a pointwise f; xᵀ + yᵀ = (x + y)ᵀ; pool(xᵀ) = pool(x)ᵀ for a pool over space;
a reduction over the rotations leaves one rotation; where one boundary meets the opposite one, both vanish.
An operator that no rule knows stays behind a boundary.
Channel padding starts as zeros, and no function here takes them to what is not finite, short of an overflow
that the features have too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ceconv_convert.kernel.spec import LiftingSpec
from ceconv_convert.onnx import dialect
from ceconv_convert.onnx.dialect import FLAT, SPLIT, Layout, is_dialect, layer_of, layout_of, notes
from ceconv_convert.onnx.passes import editing
from ceconv_convert.onnx.passes.editing import add_constant, constant, insert, is_taken, replace, shape_of

_POINTWISE = (
    *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Softplus", "Softsign", "HardSigmoid"),
    *("HardSwish", "Gelu", "Mish", "ThresholdedRelu", "Clip", "Erf", "Abs", "Neg", "Identity", "Sign"),
)
"""Of one input and scalars, and finite at 0."""
_ELEMENTWISE = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "PRelu")
_ROTATIONS = 2  # the axis, in rank SPLIT


@dataclass(frozen=True, eq=False)
class View:
    """What a ``FromRotationMajor`` node has: its rotation-major ``source``, and the rank of its output."""

    source: ir.Value
    layout: Layout
    rank: int


def form_regions(graph: ir.Graph) -> int:
    """How many nodes became rotation-major, layers apart; boundaries without a consumer may be left."""
    for node in list(graph):
        if is_dialect(node, dialect.LAYER):
            _surround(node)
    return sum(_move_boundary(node) for node in list(graph))


def _surround(node: ir.Node) -> None:
    """A rotation-major layer between two boundaries."""
    layer, x = layer_of(node), node.inputs[0]
    spec = layer.spec
    if x is not None and not isinstance(spec, LiftingSpec):  # an image is the same in both layouts
        x = enter(node, x, Layout(spec.in_channels, spec.in_rotations))
    major = insert(node, dialect.MAJOR_LAYER, [x], domain=dialect.DOMAIN)
    notes(major).layout = Layout(spec.out_channels, spec.out_rotations)
    producer = major.producer()
    if producer is not None:
        notes(producer).layer = layer
    replace(node, leave(node, major, SPLIT))


def _move_boundary(node: ir.Node) -> bool:
    """Move the boundary before ``node`` behind it, where a rule allows that."""
    view = view_of(node.inputs[0]) if node.inputs else None
    if is_dialect(node, dialect.TO_MAJOR):
        meets = view is not None and view.rank == SPLIT and view.layout == layout_of(node.outputs[0])
        if view is not None and meets:
            replace(node, view.source)
        return meets
    if node.domain or any(map(is_taken, node.outputs[1:])):
        return False
    if node.op_type in _ELEMENTWISE:
        return _elementwise(node)
    rule = _RULES.get(node.op_type)
    return rule is not None and view is not None and rule(node, view)


def view_of(value: ir.Value | None) -> View | None:
    """The rotation-major source of ``value``; None where no ``FromRotationMajor`` node makes it."""
    node = None if value is None else value.producer()
    if node is None or not is_dialect(node, dialect.FROM_MAJOR) or node.inputs[0] is None:
        return None
    layout = layout_of(node.inputs[0])
    return None if layout is None else View(node.inputs[0], layout, node.attributes.get_int("rank", SPLIT))


def enter(before: ir.Node, x: ir.Value, layout: Layout) -> ir.Value:
    """Features ``[B, C, N, H, W]`` as rotation-major, by a node that is there already, or a new one."""
    for taker in x.consumers():
        if is_dialect(taker, dialect.TO_MAJOR) and layout_of(taker.outputs[0]) == layout:
            return taker.outputs[0]
    major = insert(before, dialect.TO_MAJOR, [x], domain=dialect.DOMAIN)
    notes(major).layout = layout
    return major


def leave(before: ir.Node, major: ir.Value, rank: int) -> ir.Value:
    """Rotation-major features in the usual layout."""
    return insert(before, dialect.FROM_MAJOR, [major], {"rank": rank}, domain=dialect.DOMAIN)


def move_inside(node: ir.Node, inputs: Sequence[ir.Value | None], layout: Layout, rank: int) -> bool:
    """Replace ``node`` by the same operator on rotation-major ``inputs``, with a boundary behind it."""
    major = insert(node, node.op_type, inputs, node.attributes)
    notes(major).layout = layout
    replace(node, leave(node, major, rank))
    return True


def _pointwise(node: ir.Node, view: View) -> bool:
    others = [constant(value) for value in node.inputs[1:] if value is not None]
    for numbers in others:
        if numbers is None or numbers.size != 1 or numbers.ndim > view.rank:
            return False
        if node.op_type == "Div" and not (numbers.all() and np.isfinite(numbers).all()):
            return False
    return move_inside(node, [view.source, *node.inputs[1:]], view.layout, view.rank)


def _elementwise(node: ir.Node) -> bool:
    """An operator of several inputs, all of them with one layout, or constants."""
    views = {(view.layout, view.rank) for value in node.inputs if (view := view_of(value)) is not None}
    if len(views) != 1:
        return False
    ((layout, rank),) = views
    inputs = [_operand(node, value, layout, rank) for value in node.inputs]
    return None not in inputs and move_inside(node, inputs, layout, rank)


def _operand(node: ir.Node, value: ir.Value | None, layout: Layout, rank: int) -> ir.Value | None:
    """An input of an elementwise operator, as rotation-major features can take it; None where they cannot."""
    view, numbers = view_of(value), constant(value)
    if value is None or view is not None:
        return None if view is None else view.source
    if numbers is not None and not np.isfinite(numbers).all():
        return None
    if numbers is not None and numbers.size == 1 and numbers.ndim <= rank:
        return value
    channelwise = None if numbers is None else _channelwise(numbers, layout, rank)
    if channelwise is not None:
        return add_constant(node, f"{value.name}_rotation_major", channelwise)
    shape = shape_of(value)  # features of the same shape enter the region; broadcast ones do not
    same = shape is not None and shape == shape_of(node.outputs[0])
    if shape is None or not same or rank == FLAT or shape[1:3] != [layout.channels, layout.rotations]:
        return None
    return enter(node, value, layout)


def _channelwise(numbers: editing.Array, layout: Layout, rank: int) -> editing.Array | None:
    """A constant of one number a channel, or one a channel and rotation, as ``[1, N or 1, C, 1, 1]``."""
    channels, rotations = layout.channels, layout.rotations
    shapes = [(channels, rotations), (channels, 1)] if rank == SPLIT else [(channels * rotations,)]
    shape = numbers.shape[-rank + 1 :]
    if numbers.ndim > rank or numbers.size != np.prod(shape) or shape not in [(*s, 1, 1) for s in shapes]:
        return None
    return np.swapaxes(numbers.reshape(1, channels, -1, 1, 1), 1, 2)


def _reshape(node: ir.Node, view: View) -> bool:
    """``[B, C, N, H, W]`` ↔ ``[B, C·N, H, W]``: the same features in another rank."""
    shape, before = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    channels, rotations = view.layout.channels, view.layout.rotations
    other, middle = (FLAT, [channels * rotations]) if view.rank == SPLIT else (SPLIT, [channels, rotations])
    if shape is None or before is None or shape != [before[0], *middle, *before[-2:]]:
        return False
    replace(node, leave(node, view.source, other))
    return True


def _norm(node: ir.Node, view: View) -> bool:
    """A batch norm; in training mode its statistics would be those of the padding, too."""
    constants = all(constant(value) is not None for value in node.inputs[1:])
    if view.rank == FLAT or not constants or node.attributes.get_int("training_mode", 0) != 0:
        return False
    return move_inside(node, [view.source, *node.inputs[1:]], view.layout, SPLIT)


def _pool(node: ir.Node, view: View) -> bool:
    """A pool over height and width; a window of rank 5 must leave the rotations alone."""
    if view.rank == SPLIT:
        window = node.attributes.get_ints("kernel_shape", ())
        pads = node.attributes.get_ints("pads", (0,) * 6)
        steps = [node.attributes.get_ints(name, (1, 1, 1)) for name in ("strides", "dilations")]
        if len(window) != SPLIT - 2 or any(each[0] != 1 for each in (window, *steps)) or pads[0] or pads[3]:
            return False
    return move_inside(node, [view.source], view.layout, view.rank)


def _global_pool(node: ir.Node, view: View) -> bool:
    """A pool over height and width, or of rank 5, over the rotations too."""
    if view.rank == FLAT:
        return move_inside(node, [view.source], view.layout, FLAT)
    op_type = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
    return _reduce_view(node, view, op_type, space=True, rotations=True, keeps=True)


def _reduce(node: ir.Node, view: View) -> bool:
    """A reduction over the rotations, over height and width, or over all three."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not axes.size:  # no axes are all of them, or none at all
        return False
    over, space = {int(axis) % view.rank for axis in axes.tolist()}, {view.rank - 2, view.rank - 1}
    rotations = view.rank == SPLIT and _ROTATIONS in over
    if over - space != ({_ROTATIONS} if rotations else set()) or over & space not in (set(), space):
        return False
    keeps = node.attributes.get_int("keepdims", 1) != 0
    return _reduce_view(node, view, node.op_type, space=space <= over, rotations=rotations, keeps=keeps)


def _reduce_view(
    node: ir.Node, view: View, op_type: str, *, space: bool, rotations: bool, keeps: bool
) -> bool:
    """Replace ``node`` by reductions of rotation-major features, over space first, and a boundary."""
    value, layout, rank = view.source, view.layout, view.rank
    one = Layout(layout.channels, 1)
    steps = [("height_and_width", [-2, -1], layout)] if space else []
    steps += [("rotations", [1], one)] if rotations and layout.rotations > 1 else []
    for name, axes, to in steps:
        value = insert(node, op_type, [value, add_constant(node, name, axes)])
        notes(value).layout = to
    features = leave(node, value, FLAT if rotations and not keeps else rank)
    if space and not keeps:
        features = insert(node, "Squeeze", [features, add_constant(node, "height_and_width", [-2, -1])])
    replace(node, features)
    return True


def _plain_convolution(node: ir.Node, view: View) -> bool:
    """A plain convolution takes rotation-major features: ``lower`` permutes the columns of its weight."""
    grouped = node.attributes.get_int("group", 1) != 1
    if view.rank != FLAT or constant(node.inputs[1]) is None or grouped:
        return False
    node.replace_input_with(0, view.source)
    return True


_RULES: dict[str, Callable[[ir.Node, View], bool]] = {
    "Reshape": _reshape,
    "BatchNormalization": _norm,
    "Conv": _plain_convolution,
    **dict.fromkeys((*_POINTWISE, "Div"), _pointwise),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"), _reduce),
}
