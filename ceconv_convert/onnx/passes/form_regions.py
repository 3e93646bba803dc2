"""Give connected regions one layout, planes with the rotations outermost, with borders only around them.

Every layer gets a border at its entrance and one at its exit. Exits then move down over what does not care:
    f(xᵀ) = f(x)ᵀ for a pointwise f; xᵀ + yᵀ = (x + y)ᵀ; pool(xᵀ) = pool(x)ᵀ for a pool over space;
a reduction over the rotations leaves planes of one rotation; an exit that meets an entrance vanishes with it.
What is padded onto channels starts as zeros, and no function here takes them to what is not finite, short of
an overflow that the features have too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ceconv_convert.kernel.spec import LiftingSpec
from ceconv_convert.onnx.dialect import (
    DOMAIN,
    FROM_PLANES,
    LAYER,
    PLANES_LAYER,
    TO_PLANES,
    Planes,
    is_dialect,
    layer_of,
)
from ceconv_convert.onnx.passes.planes import entered, entrance, leave, origin_of, planes_of, through
from ceconv_convert.onnx.passes.tools import (
    add_constant,
    constant,
    insert,
    integer,
    integers,
    is_finite,
    is_scalar,
    is_taken,
    replace,
    shape_of,
)

_POINTWISE = frozenset(
    (
        *(
            "Relu",
            "LeakyRelu",
            "Sigmoid",
            "Tanh",
            "Elu",
            "Selu",
            "Celu",
            "Softplus",
            "Softsign",
            "HardSigmoid",
        ),
        *("HardSwish", "Gelu", "Mish", "ThresholdedRelu", "Clip", "Erf", "Abs", "Neg", "Identity", "Sign"),
    )
)
"""Of one input and scalars, and finite at 0."""
_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Max", "Min", "Sum", "PRelu"))
_POOLS = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
_REDUCTIONS = frozenset(("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"))
_RANK, _ROTATIONS = 5, 2


def form_regions(graph: ir.Graph) -> int:
    """Rewrite the graph; how many nodes came to work on planes, layers apart."""
    for node in list(graph):
        if is_dialect(node, LAYER):
            _enter(node)
    count = sum(_sink(node) for node in list(graph))
    for node in reversed(list(graph)):  # exits that all who took them passed by
        if is_dialect(node, FROM_PLANES) and not is_taken(node.outputs[0]):
            graph.remove(node, safe=True)
    return count


def _enter(node: ir.Node) -> None:
    layer, (x,) = layer_of(node), node.inputs
    spec = layer.spec
    if not isinstance(spec, LiftingSpec):  # an image is planes of one rotation already
        kind = Planes(spec.in_channels, spec.in_rotations)
        x = entered(x, kind) or entrance(node, x, kind)
    y = insert(node, PLANES_LAYER, [x], domain=DOMAIN)
    y.meta["planes"] = Planes(spec.out_channels, spec.out_rotations)
    core = y.producer()
    if core is not None:
        core.meta["layer"] = layer
    replace(node, leave(node, y, flat=False))


def _sink(node: ir.Node) -> bool:
    if is_dialect(node, TO_PLANES):
        return _cancel(node)
    if node.domain or any(map(is_taken, node.outputs[1:])):
        return False
    rules: dict[str, Callable[[ir.Node], bool]] = {
        "Reshape": _reshape,
        "BatchNormalization": _norm,
        "Div": _scale,
        "Conv": _plain_convolution,
        **dict.fromkeys(_POINTWISE, _pointwise),
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
        **dict.fromkeys(_POOLS, _pool),
        **dict.fromkeys(_REDUCTIONS, _reduce),
    }
    rule = rules.get(node.op_type)
    return rule is not None and rule(node)


def _cancel(node: ir.Node) -> bool:
    origin = origin_of(node.inputs[0])
    if origin is None or origin[2] or origin[1] != planes_of(node.outputs[0]):
        return False
    replace(node, origin[0])
    return True


def _pointwise(node: ir.Node) -> bool:
    origin = origin_of(node.inputs[0])
    if origin is None or not all(is_scalar(value, _RANK - origin[2]) for value in node.inputs[1:]):
        return False
    value, kind, flat = origin
    return through(node, [value, *node.inputs[1:]], kind, flat=flat)


def _scale(node: ir.Node) -> bool:
    """Division by a number."""
    divisor = constant(node.inputs[1])
    return divisor is not None and bool(divisor.all()) and is_finite(node.inputs[1]) and _pointwise(node)


def _elementwise(node: ir.Node) -> bool:
    origins = [origin_of(value) for value in node.inputs]
    views = {(origin[1], origin[2]) for origin in origins if origin is not None}
    if len(views) != 1 or any(value is None for value in node.inputs) or not all(map(is_finite, node.inputs)):
        return False
    ((kind, flat),) = views
    inputs: list[ir.Value | None] = []
    entered: list[tuple[int, ir.Value]] = []
    for index, (value, origin) in enumerate(zip(node.inputs, origins, strict=True)):
        if origin is not None:
            inputs.append(origin[0])
            continue
        if is_scalar(value, _RANK - flat):
            inputs.append(value)
            continue
        numbers = _per_channel(value, kind, flat=flat)
        if numbers is not None and value is not None and node.graph is not None:
            inputs.append(add_constant(node.graph, f"{value.name}_planes", numbers))
            continue
        if flat or value is None or not _has(value, kind, like=node.outputs[0]):
            return False
        inputs.append(value)
        entered.append((index, value))
    for index, value in entered:
        inputs[index] = entrance(node, value, kind)
    return through(node, inputs, kind, flat=flat)


def _has(value: ir.Value, kind: Planes, *, like: ir.Value) -> bool:
    """Whether the features ``value`` are of that kind, and of the shape of others: nothing is broadcast."""
    shape = shape_of(value)
    return shape is not None and shape[1:3] == [kind.channels, kind.rotations] and shape == shape_of(like)


def _per_channel(value: ir.Value | None, kind: Planes, *, flat: bool) -> np.ndarray | None:
    """A constant of one number a channel, or one a channel and rotation, as ``[1, N or 1, C, 1, 1]``."""
    numbers = constant(value)
    channels, rotations = kind.channels, kind.rotations
    if numbers is None or numbers.ndim > _RANK - flat:
        return None
    shape = numbers.shape[-3:] if flat else numbers.shape[-4:]
    if math.prod(shape) != numbers.size:  # one number an image
        return None
    if flat and shape == (channels * rotations, 1, 1):
        shape = (channels, rotations, 1, 1)
    if (
        len(shape) != _RANK - 1
        or shape[0] != channels
        or shape[1] not in (1, rotations)
        or shape[2:] != (1, 1)
    ):
        return None
    return np.swapaxes(numbers.reshape(1, *shape), 1, 2)


def _reshape(node: ir.Node) -> bool:
    """``[B, C, N, H, W]`` ↔ ``[B, C·N, H, W]``: the same planes, seen otherwise."""
    origin, shape, before = origin_of(node.inputs[0]), shape_of(node.outputs[0]), shape_of(node.inputs[0])
    if origin is None or shape is None or before is None:
        return False
    value, kind, flat = origin
    views = {_RANK: [kind.channels, kind.rotations], _RANK - 1: [kind.channels * kind.rotations]}
    if shape[:1] != before[:1] or shape[-2:] != before[-2:] or shape[1:-2] != views.get(len(shape)):
        return False
    if (len(shape) == _RANK) != flat:
        return False
    replace(node, leave(node, value, flat=not flat))
    return True


def _norm(node: ir.Node) -> bool:
    origin = origin_of(node.inputs[0])
    if origin is None or origin[2] or any(constant(value) is None for value in node.inputs[1:]):
        return False
    if integer(node, "training_mode"):  # its statistics would be those of the padding, too
        return False
    value, kind, _ = origin
    return through(node, [value, *node.inputs[1:]], kind, flat=False)


def _pool(node: ir.Node) -> bool:
    """A pool over height and width, or a global one; a window of rank 5 must leave the rotations alone."""
    origin = origin_of(node.inputs[0])
    if origin is None:
        return False
    value, kind, flat = origin
    if node.op_type.startswith("Global"):
        if flat:
            return through(node, [value], kind, flat=True)
        op_type = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
        _reduced(node, op_type, space=True, rotations=True, keeps=True)
        return True
    if not flat:
        window = integers(node, "kernel_shape")
        ones = (integers(node, "strides", [1] * 3), integers(node, "dilations", [1] * 3), window)
        pads = integers(node, "pads", [0] * 6)
        if len(window) != _RANK - 2 or any(each[0] != 1 for each in ones) or pads[0] or pads[3]:
            return False
    return through(node, [value], kind, flat=flat)


def _reduce(node: ir.Node) -> bool:
    """Over the rotations, over height and width, or over all three."""
    origin = origin_of(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if origin is None or axes is None or not axes.size:  # no axes are all of them, or none at all
        return False
    rank = _RANK - origin[2]
    over, space = {int(axis) % rank for axis in axes.tolist()}, {rank - 2, rank - 1}
    rotations = not origin[2] and _ROTATIONS in over
    if over - space != ({_ROTATIONS} if rotations else set()) or over & space not in (set(), space):
        return False
    _reduced(
        node, node.op_type, space=space <= over, rotations=rotations, keeps=bool(integer(node, "keepdims", 1))
    )
    return True


def _reduced(node: ir.Node, op_type: str, *, space: bool, rotations: bool, keeps: bool) -> None:
    """Reduce planes in the place of ``node``, and leave them behind it; over space first."""
    origin, graph, shape = origin_of(node.inputs[0]), node.graph, shape_of(node.inputs[0])
    if origin is None or graph is None:
        raise ValueError(f"{node.name} does not take planes")
    value, kind, flat = origin

    def over(name: str, axes: list[int], to: Planes) -> ir.Value:
        constants = add_constant(graph, name, np.array(axes, dtype=np.int64))
        reduced = insert(node, op_type, [value, constants])
        reduced.meta["planes"] = to
        return reduced

    if space:
        value = over("height_and_width", [-2, -1], kind)
    if rotations:
        flat = flat or not keeps
        if kind.rotations > 1:
            value = over("rotations", [1], Planes(kind.channels, 1))
    if not space or keeps:
        replace(node, leave(node, value, flat=flat))
        return
    left = leave(node, value, flat=flat)
    left.shape = None if shape is None else ir.Shape([*shape[: 2 if rotations else -2], 1, 1])
    axes = add_constant(graph, "height_and_width", np.array([-2, -1], dtype=np.int64))
    replace(node, insert(node, "Squeeze", [left, axes]))


def _plain_convolution(node: ir.Node) -> bool:
    """A plain convolution may take planes as they are: its weight's columns change places."""
    origin = origin_of(node.inputs[0])
    if origin is None or not origin[2] or constant(node.inputs[1]) is None or integer(node, "group", 1) != 1:
        return False
    node.replace_input_with(0, origin[0])
    node.meta["takes"] = origin[1]
    return True
