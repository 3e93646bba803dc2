"""Give connected regions one layout, planes with the rotations outermost, with borders only around them.

Every layer gets a border at its entrance and one at its exit. Exits then move down over what does not care:
    f(xᵀ) = f(x)ᵀ for a pointwise f; xᵀ + yᵀ = (x + y)ᵀ; pool(xᵀ) = pool(x)ᵀ for a pool over space;
a reduction over the rotations leaves planes of one rotation; an exit that meets an entrance vanishes with it.
What is padded onto channels starts as zeros, and no function here takes them to what is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ceconv_convert.graph.dialect import (
    DOMAIN,
    FROM_PLANES,
    LAYER,
    PLANES_LAYER,
    TO_PLANES,
    Planes,
    is_dialect,
    layer_of,
)
from ceconv_convert.graph.passes.tools import (
    add_constant,
    constant,
    insert,
    integer,
    integers,
    is_scalar,
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
    return sum(_sink(node) for node in list(graph))


def planes_of(value: ir.Value | None) -> Planes | None:
    """What kind of planes ``value`` is; None where it is none."""
    found = None if value is None else value.meta.get("planes")
    return found if isinstance(found, Planes) else None


def _enter(node: ir.Node) -> None:
    layer, (x,) = layer_of(node), node.inputs
    spec = layer.spec
    if spec.kind == "cyclic":  # an image is planes of one rotation already
        x = _entrance(node, x, Planes(spec.in_channels, spec.in_rotations))
    y = insert(node, PLANES_LAYER, [x], domain=DOMAIN)
    y.meta["planes"] = Planes(spec.out_channels, spec.out_rotations)
    core = y.producer()
    if core is not None:
        core.meta["layer"] = layer
    replace(node, _leave(node, y, flat=False))


def _entrance(before: ir.Node, x: ir.Value | None, kind: Planes) -> ir.Value:
    planes = insert(before, TO_PLANES, [x], domain=DOMAIN)
    planes.meta["planes"] = kind
    return planes


def _leave(before: ir.Node, planes: ir.Value, *, flat: bool, like: ir.Value | None = None) -> ir.Value:
    return insert(
        before,
        FROM_PLANES,
        [planes],
        {"flat": int(flat)},
        domain=DOMAIN,
        like=before.outputs[0] if like is None else like,
    )


def _origin(value: ir.Value | None) -> tuple[ir.Value, Planes, bool] | None:
    """The planes that ``value`` is a view of, and whether it is flat."""
    node = None if value is None else value.producer()
    if node is None or not is_dialect(node, FROM_PLANES) or node.inputs[0] is None:
        return None
    kind = planes_of(node.inputs[0])
    return None if kind is None else (node.inputs[0], kind, bool(integer(node, "flat")))


def _sink(node: ir.Node) -> bool:
    if is_dialect(node, TO_PLANES):
        return _cancel(node)
    if node.domain or (len(node.outputs) != 1 and any(output.uses() for output in node.outputs[1:])):
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


def _through(node: ir.Node, inputs: list[ir.Value | None], kind: Planes, *, flat: bool) -> bool:
    """Put the same operator on planes in the place of ``node``, and an exit behind it."""
    moved = insert(node, node.op_type, inputs)
    producer = moved.producer()
    if producer is None:
        return False
    for attribute in node.attributes.values():
        producer.attributes[attribute.name] = attribute
    moved.meta["planes"] = kind
    replace(node, _leave(node, moved, flat=flat))
    return True


def _cancel(node: ir.Node) -> bool:
    origin = _origin(node.inputs[0])
    if origin is None or origin[2] or origin[1] != planes_of(node.outputs[0]):
        return False
    replace(node, origin[0])
    return True


def _pointwise(node: ir.Node) -> bool:
    origin = _origin(node.inputs[0])
    if origin is None or not all(map(is_scalar, node.inputs[1:])):
        return False
    value, kind, flat = origin
    return _through(node, [value, *node.inputs[1:]], kind, flat=flat)


def _scale(node: ir.Node) -> bool:
    """Division by a number."""
    divisor = constant(node.inputs[1])
    return divisor is not None and divisor.size == 1 and divisor.item() != 0 and _pointwise(node)


def _elementwise(node: ir.Node) -> bool:
    origins = [_origin(value) for value in node.inputs]
    views = {(origin[1], origin[2]) for origin in origins if origin is not None}
    if len(views) != 1 or any(value is None for value in node.inputs):
        return False
    ((kind, flat),) = views
    inputs: list[ir.Value | None] = []
    entered: list[tuple[int, ir.Value]] = []
    for index, (value, origin) in enumerate(zip(node.inputs, origins, strict=True)):
        if origin is not None:
            inputs.append(origin[0])
            continue
        if is_scalar(value):
            inputs.append(value)
            continue
        numbers = _per_channel(value, kind, flat=flat)
        if numbers is not None and value is not None and node.graph is not None:
            inputs.append(add_constant(node.graph, f"{value.name}_planes", numbers))
            continue
        if flat or value is None or shape_of(value) is None or shape_of(value) != shape_of(node.outputs[0]):
            return False
        inputs.append(value)
        entered.append((index, value))
    for index, value in entered:
        inputs[index] = _entrance(node, value, kind)
    return _through(node, inputs, kind, flat=flat)


def _per_channel(value: ir.Value | None, kind: Planes, *, flat: bool) -> np.ndarray | None:
    """A constant of one number a channel, or one a channel and rotation, as ``[1, N or 1, C, 1, 1]``."""
    numbers = constant(value)
    channels, rotations = kind.channels, kind.rotations
    if numbers is None:
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
    origin, shape, before = _origin(node.inputs[0]), shape_of(node.outputs[0]), shape_of(node.inputs[0])
    if origin is None or shape is None or before is None:
        return False
    value, kind, flat = origin
    views = {_RANK: [kind.channels, kind.rotations], _RANK - 1: [kind.channels * kind.rotations]}
    if shape[:1] != before[:1] or shape[-2:] != before[-2:] or shape[1:-2] != views.get(len(shape)):
        return False
    if (len(shape) == _RANK) != flat:
        return False
    replace(node, _leave(node, value, flat=not flat))
    return True


def _norm(node: ir.Node) -> bool:
    origin = _origin(node.inputs[0])
    if origin is None or origin[2] or any(constant(value) is None for value in node.inputs[1:]):
        return False
    value, kind, _ = origin
    return _through(node, [value, *node.inputs[1:]], kind, flat=False)


def _pool(node: ir.Node) -> bool:
    """A pool over height and width; one of rank 5 must leave the rotations alone."""
    origin = _origin(node.inputs[0])
    if origin is None:
        return False
    value, kind, flat = origin
    if node.op_type.startswith("Global"):
        return flat and _through(node, [value], kind, flat=True)
    if not flat:
        window = integers(node, "kernel_shape")
        ones = (integers(node, "strides", [1] * 3), integers(node, "dilations", [1] * 3), window)
        pads = integers(node, "pads", [0] * 6)
        if len(window) != _RANK - 2 or any(each[0] != 1 for each in ones) or pads[0] or pads[3]:
            return False
    return _through(node, [value], kind, flat=flat)


def _reduce(node: ir.Node) -> bool:
    """Over the rotations, or, keeping the axes, over height and width."""
    origin = _origin(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if origin is None or axes is None or node.graph is None:
        return False
    value, kind, flat = origin
    rank = _RANK - flat
    over, keeps = sorted(int(axis) % rank for axis in axes.tolist()), integer(node, "keepdims", 1)
    if over == [rank - 2, rank - 1] and keeps:
        space = add_constant(node.graph, "height_and_width", np.array([-2, -1], dtype=np.int64))
        return _through(node, [value, space], kind, flat=flat)
    if flat or over != [_ROTATIONS]:
        return False
    rotations = add_constant(node.graph, "rotations", np.array([1], dtype=np.int64))
    return _through(node, [value, rotations], Planes(kind.channels, 1), flat=not keeps)


def _plain_convolution(node: ir.Node) -> bool:
    """A plain convolution may take planes as they are: its weight's columns change places."""
    origin = _origin(node.inputs[0])
    if origin is None or not origin[2] or constant(node.inputs[1]) is None or integer(node, "group", 1) != 1:
        return False
    node.replace_input_with(0, origin[0])
    node.meta["takes"] = origin[1]
    return True
