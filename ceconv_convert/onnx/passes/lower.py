"""Rotation-major layers, features, and the operators on them, as standard operators.

A layer, in the form that was chosen for it: y = U · conv(T · x),
[B, N_in, I', H, W] → T, a 1×1×1 convolution over the rotations → [B, g·b, I', H, W]
→ one convolution in g groups → [B, g·a, O', H', W'] → U, a 1×1×1 convolution → [B, N_out, O', H', W']

Channels are padded with zeros, in the weights. Weights are formed in float64 and rounded once. Two layers
with the same input and T share T·x: the compiler eliminates common subexpressions.
"""

import numpy as np
import onnx_ir as ir
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.onnx import dialect
from ceconv_convert.onnx.boundaries import Boundary
from ceconv_convert.onnx.dialect import FLAT, SPLIT, Layout, layer_of, layout_of, major_layout, notes
from ceconv_convert.onnx.passes.editing import Array, add_constant, constant, in_rank, insert, noted, replace
from ceconv_convert.onnx.passes.mix_elementwise import MOST_ROTATIONS, mix_elementwise

_FLAT_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_WINDOWS = ("kernel_shape", "strides", "dilations", "pads")
_VARIANCE = 4
"""BatchNorm's variance; padded with ones, not zeros: the norm divides by it."""
_SWAP = [0, 2, 1, 3, 4]
"""Rotations and channels change places."""


def lower(graph: ir.Graph, *, elementwise: bool = False) -> list[Boundary[ir.Value]]:
    """Write the dialect, and operators on rotation-major features, in standard ones; where each layer is."""
    boundaries = []
    for node in list(graph):
        major = [value for value in node.inputs if layout_of(value) is not None]
        if dialect.is_dialect(node, dialect.MAJOR_LAYER):
            made, layer, x = write_layer(node, elementwise=elementwise), layer_of(node), node.inputs[0]
            if x is not None:
                entered = layout_of(x) is not None
                boundaries.append(Boundary(layer.name, x, made, entered, True, layer.norms))
        elif dialect.is_dialect(node, dialect.TO_MAJOR):
            made = _enter(node)
        elif dialect.is_dialect(node, dialect.FROM_MAJOR):
            made = _leave(node)
        elif major and layout_of(node.outputs[0]) is None:
            _permute_columns(node)
            continue
        elif major:
            made = _operator(node)
        else:
            continue
        if layout_of(node.outputs[0]) is not None:
            notes(made).layout = layout_of(node.outputs[0])
        replace(node, made)
    return boundaries


def _enter(node: ir.Node) -> ir.Value:
    x, (_, layout) = node.inputs[0], major_layout(node.outputs[0])
    if layout.padded > layout.channels:
        missing = [0, layout.padded - layout.channels, 0, 0, 0]
        x = insert(node, "Pad", [x, add_constant(node, "channels", [0] * SPLIT + missing)])
    return noted(insert(node, "Transpose", [x], {"perm": _SWAP}), SPLIT)


def _leave(node: ir.Node) -> ir.Value:
    value, layout = major_layout(node.inputs[0])
    rank = node.attributes.get_int("rank", SPLIT)
    if layout.rotations == 1:
        features = _without_padding(node, in_rank(node, value, FLAT, layout), 1, layout)
        if rank == SPLIT:
            return insert(node, "Unsqueeze", [features, add_constant(node, "rotations", [2])])
        return insert(node, "Identity", [features]) if features is value else features
    split = _without_padding(node, in_rank(node, value, SPLIT, layout), 2, layout)
    features = insert(node, "Transpose", [split], {"perm": _SWAP})
    usual = Layout(layout.rotations, layout.channels, layout.rotations)  # channels outermost
    return in_rank(node, noted(features, SPLIT, value), rank, usual)


def _without_padding(before: ir.Node, value: ir.Value, axis: int, layout: Layout) -> ir.Value:
    """The channels of the network."""
    if layout.padded == layout.channels:
        return value
    numbers = {"first": 0, "channels": layout.channels, "axis": axis}
    bounds = [add_constant(before, name, [number]) for name, number in numbers.items()]
    return insert(before, "Slice", [value, *bounds])


def _operator(node: ir.Node) -> ir.Value:
    """The same operator, in a rank that suits it and all of its inputs."""
    inputs = [value for value in node.inputs if layout_of(value) is not None]
    value, layout = major_layout(inputs[0])
    _, made = major_layout(node.outputs[0])
    norm, pool = node.op_type == "BatchNormalization", node.op_type in _FLAT_POOLS
    over_rotations = made.rotations != layout.rotations
    rank = FLAT if norm or pool else SPLIT if over_rotations else notes(value).rank
    attributes = dict(node.attributes)
    if pool:
        attributes |= {name: _over_space(attributes[name]) for name in _WINDOWS if name in attributes}
    if over_rotations:
        attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
    operands = [_operand(node, index, layout, rank) for index in range(len(node.inputs))]
    features = insert(node, node.op_type, operands, attributes)
    sizes = {notes(each).size for each in inputs if each is not None}
    same = len(sizes) == 1 and not pool and not node.op_type.startswith("Reduce")
    return noted(features, FLAT if over_rotations else rank, value if same else None)


def _over_space(attribute: ir.Attr) -> ir.Attr:
    """Of a pool's window, the numbers for height and width; without those for the rotations."""
    numbers = list(attribute.as_ints())
    if len(numbers) % (SPLIT - 2) == 0:
        del numbers[:: SPLIT - 2]
    return ir.AttrInt64s(attribute.name, numbers)


def _operand(node: ir.Node, index: int, layout: Layout, rank: int) -> ir.Value | None:
    """An input of an operator; constants of one number a channel in the order and padding of the features."""
    value = node.inputs[index]
    if value is None or layout_of(value) is not None:
        return None if value is None else in_rank(node, value, rank, layout)
    numbers = constant(value)
    if numbers is None:
        return value
    if node.op_type == "BatchNormalization":
        further = float(index == _VARIANCE)
        columns = _padded(numbers.reshape(1, 1, -1, 1, 1), layout, rank, further).flatten()
        return add_constant(node, f"{value.name}_padded", columns)
    if numbers.size == 1 and numbers.ndim > 1:  # its rank must not raise that of the features
        return add_constant(node, f"{value.name}_number", numbers.reshape(1))
    if numbers.ndim != SPLIT:
        return value
    return add_constant(node, f"{value.name}_padded", _padded(numbers, layout, rank))


def _padded(numbers: Array, layout: Layout, rank: int, further: float = 0) -> Array:
    """``[1, N or 1, C, 1, 1]``, padded with ``further``, for features in a rank."""
    padded = _pad(numbers, layout, further)
    if rank == SPLIT:
        return padded
    return np.broadcast_to(padded, (1, layout.rotations, layout.padded, 1, 1)).reshape(1, -1, 1, 1)


def _permute_columns(node: ir.Node) -> None:
    """A plain convolution on rotation-major features: its weight, ``[O, C·N, kh, kw]``, in their order."""
    value, layout = major_layout(node.inputs[0])
    numbers = constant(node.inputs[1])
    if numbers is None or node.inputs[1] is None:
        raise ValueError("a plain convolution has a constant weight")
    rows, _, *kernel = numbers.shape
    weight = numbers.reshape(rows, layout.channels, layout.rotations, *kernel).swapaxes(1, 2)
    flat = _pad(weight, layout).reshape(rows, -1, *kernel)  # [O, N·C', kh, kw]
    node.replace_input_with(0, in_rank(node, value, FLAT, layout))
    node.replace_input_with(1, add_constant(node, f"{node.inputs[1].name}_rotation_major", flat))


def _pad(numbers: Array, layout: Layout, further: float = 0) -> Array:
    """``[…, …, C, …]`` → ``[…, …, C', …]``."""
    widths = [(0, layout.padded - layout.channels if axis == 2 else 0) for axis in range(numbers.ndim)]
    return np.pad(numbers, widths, constant_values=further)


def write_layer(node: ir.Node, *, elementwise: bool = False) -> ir.Value:
    """Write a ``RotationMajorLayer`` before ``node``; its output."""
    layer, form, value = layer_of(node), notes(node).form, node.inputs[0]
    if form is None or form.factors is None or value is None:
        raise ValueError(f"the layer {layer.name} has no input, or no form that can be written")
    spec, factors = layer.spec, form.factors(layer.folded_spec())
    groups, _, out_channels, columns, in_channels = factors.weight.shape[:5]
    layout, (_, out_layout) = layout_of(value), major_layout(node.outputs[0])
    padded_in = in_channels if layout is None else layout.padded
    padded_out = out_layout.padded

    def rounded(kind: str, numbers: Tensor) -> ir.Value:
        name = f"{layer.name}.{kind}" if layer.name else kind
        return add_constant(node, name, numbers.to(spec.dtype).numpy())

    def mix(kind: str, x: ir.Value, matrix: Tensor, channels: int) -> ir.Value:
        if elementwise and max(spec.in_rotations, spec.out_rotations) <= MOST_ROTATIONS:
            flat = in_rank(node, x, FLAT, Layout(channels, matrix.shape[1], channels))
            return mix_elementwise(node, flat, matrix, channels, matrix[:0].to(spec.dtype).numpy())
        split = in_rank(node, x, SPLIT, Layout(channels, matrix.shape[1], channels))
        kernel = {"kernel_shape": [1, 1, 1]}  # without it MNN reads a kernel of size 0
        mixed = insert(node, "Conv", [split, rounded(kind, matrix[:, :, None, None, None])], kernel)
        return noted(mixed, SPLIT, split)

    if factors.forward is not None:
        value = mix("transform", value, factors.forward, padded_in)
    value = in_rank(node, value, FLAT, Layout(padded_in, groups * columns, padded_in))
    weight = F.pad(factors.weight, (*[0] * 5, padded_in - in_channels, *[0] * 3, padded_out - out_channels))
    inputs = [value, rounded("weight", weight.flatten(0, 2).flatten(1, 2))]
    if factors.bias is not None:
        bias = F.pad(factors.bias, (0, padded_out - out_channels))
        inputs.append(rounded("bias", bias.flatten()))
    (top, bottom), (left, right) = spec.padding
    attributes = {"group": groups, "strides": list(spec.stride), "pads": [top, left, bottom, right]}
    attributes["kernel_shape"] = list(spec.kernel_size)
    y = insert(node, "Conv", inputs, attributes)
    noted(y, FLAT, value if _keeps_size(spec) else None)
    return y if factors.inverse is None else mix("inverse", y, factors.inverse, padded_out)


def _keeps_size(spec: KernelSpec) -> bool:
    """Whether height and width stay what they are."""
    extents = zip(spec.padding, spec.kernel_size, spec.stride, strict=True)
    return all(sum(zeros) == kernel - 1 and stride == 1 for zeros, kernel, stride in extents)
