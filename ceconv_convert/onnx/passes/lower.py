"""Planes, and what works on them, as standard operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from ceconv_convert.onnx.boundaries import Boundary
from ceconv_convert.onnx.dialect import FROM_PLANES, PLANES_LAYER, TO_PLANES, Planes, is_dialect, layer_of
from ceconv_convert.onnx.passes.planes import planes_of
from ceconv_convert.onnx.passes.tools import (
    Array,
    add_constant,
    constant,
    insert,
    integer,
    replace,
)
from ceconv_convert.onnx.passes.views import FLAT, SPLIT, Views
from ceconv_convert.onnx.passes.write_layers import fill, write_layer

_FLAT_ONLY = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization"))
_VARIANCE = 4
"""The input of a norm that is filled up with ones: it is divided by."""
_SWAP = [0, 2, 1, 3, 4]
"""Rotations and channels change places."""
_WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 2}
"""Attributes of a pool, and how many numbers they have for each axis."""


def lower(graph: ir.Graph) -> list[Boundary[ir.Value]]:
    """Write every node of the dialect, and every operator on planes, in standard operators.

    Returns:
        Where each layer begins and ends.
    """
    views, found = Views(graph), []
    transformed: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(graph):
        if is_dialect(node, PLANES_LAYER):
            made = write_layer(graph, node, views, transformed)
            found.append(_boundary(node, made))
        elif is_dialect(node, TO_PLANES):
            made = views.give(_to_planes(graph, node), SPLIT)
        elif is_dialect(node, FROM_PLANES):
            made = _from_planes(graph, node, views)
        elif "takes" in node.meta:
            _take_planes(graph, node, views)
            continue
        elif planes_of(node.outputs[0]) is not None:
            made = _on_planes(graph, node, views)
        else:
            continue
        made.meta.update(node.outputs[0].meta)
        replace(node, made)
    return found


def _boundary(node: ir.Node, made: ir.Value) -> Boundary[ir.Value]:
    """Of a layer, which gives ``made`` in the place of its node's output."""
    layer, x = layer_of(node), node.inputs[0]
    if x is None:
        raise ValueError(f"{layer.name} takes nothing")
    return Boundary(layer.name, x, made, planes_of(x) is not None, True, layer.norms)


def _aligned(value: ir.Value | None) -> tuple[ir.Value, Planes, int]:
    """A value of planes: itself, its kind, and C'."""
    kind = planes_of(value)
    if value is None or kind is None:
        raise ValueError("an operator on planes takes planes")
    return value, kind, int(value.meta["aligned"])


def _to_planes(graph: ir.Graph, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    _, kind, aligned = _aligned(node.outputs[0])
    missing = aligned - kind.channels
    if missing and x is not None:
        pads = np.zeros(2 * SPLIT, dtype=np.int64)
        pads[SPLIT + 1] = missing
        x = insert(node, "Pad", [x, add_constant(graph, "channels", pads)])
    return insert(node, "Transpose", [x], {"perm": _SWAP})


def _from_planes(graph: ir.Graph, node: ir.Node, views: Views) -> ir.Value:
    value, kind, aligned = _aligned(node.inputs[0])
    flat, like = bool(integer(node, "flat")), node.outputs[0]
    if kind.rotations == 1:
        planes = _first(graph, node, views.flat(node, value, aligned), 1, kind.channels, aligned)
        if flat:
            return insert(node, "Identity", [planes], like=like) if planes is value else planes
        axis = add_constant(graph, "rotations", np.array([2], dtype=np.int64))
        return insert(node, "Unsqueeze", [planes, axis], like=like)
    split = views.split(node, value, kind.rotations, aligned)
    split = _first(graph, node, split, 2, kind.channels, aligned)
    features = insert(node, "Transpose", [split], {"perm": _SWAP}, like=None if flat else like)
    if not flat:
        return features
    count = kind.channels * kind.rotations
    views.give(features, SPLIT, as_large_as=value)
    return views.flat(node, features, count)


def _first(
    graph: ir.Graph, before: ir.Node, value: ir.Value, axis: int, channels: int, aligned: int
) -> ir.Value:
    """The channels without those that fill up."""
    if channels == aligned:
        return value
    bounds = [
        add_constant(graph, name, np.array([number], dtype=np.int64))
        for name, number in (("first", 0), ("channels", channels), ("axis", axis))
    ]
    return insert(before, "Slice", [value, *bounds])


def _on_planes(graph: ir.Graph, node: ir.Node, views: Views) -> ir.Value:
    """The same operator, on planes in a rank that suits it and all of its inputs."""
    value, kind, aligned = _aligned(next(value for value in node.inputs if planes_of(value) is not None))
    rank = views.rank(value)
    attributes = dict(node.attributes)
    if node.op_type in _FLAT_ONLY:
        rank = FLAT
        for name, times in _WINDOWS.items():
            found = attributes.get(name)
            numbers = [] if found is None else list(found.as_ints())
            if len(numbers) == times * (SPLIT - 2):  # of rank 5: without those of the rotations
                attributes[name] = ir.AttrInt64s(
                    name, numbers[1:3] if times == 1 else numbers[1:3] + numbers[4:]
                )
    reduces = node.op_type.startswith("Reduce") and planes_of(node.outputs[0]) != kind
    if reduces:  # over the rotations
        rank = SPLIT
        attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
    inputs: list[ir.Value | None] = []
    for index, each in enumerate(node.inputs):
        if each is None:
            inputs.append(None)
        elif planes_of(each) is not None:
            inputs.append(_viewed(node, each, views, rank))
        elif node.op_type == "BatchNormalization" and index:
            inputs.append(
                _filled(
                    graph, each, (1, 1, kind.channels, 1, 1), kind, aligned, FLAT, float(index == _VARIANCE)
                )
            )
        else:
            inputs.append(_constant_input(graph, each, kind, aligned, rank))
    made = insert(node, node.op_type, inputs)
    producer = made.producer()
    if producer is not None:
        producer.attributes.update(attributes)
    sizes = {views.size_source(each) for each in node.inputs if each is not None and planes_of(each)}
    same = (
        len(sizes) == 1
        and node.op_type not in _FLAT_ONLY - {"BatchNormalization"}
        and not node.op_type.startswith("Reduce")
    )
    return views.give(made, FLAT if reduces else rank, as_large_as=value if same else None)


def _viewed(node: ir.Node, value: ir.Value, views: Views, rank: int) -> ir.Value:
    _, kind, aligned = _aligned(value)
    if rank == FLAT:
        return views.flat(node, value, kind.rotations * aligned)
    return views.split(node, value, kind.rotations, aligned)


def _constant_input(graph: ir.Graph, value: ir.Value, kind: Planes, aligned: int, rank: int) -> ir.Value:
    """A number as it is; numbers for each channel in the order of the planes."""
    numbers = constant(value)
    if numbers is not None and numbers.size == 1 and numbers.ndim > 1:
        # Its rank must not raise that of planes.
        return add_constant(graph, f"{value.name}_number", numbers.reshape(1))
    if numbers is None or numbers.ndim != SPLIT:
        return value
    return _filled(graph, value, numbers.shape, kind, aligned, rank)


def _filled(
    graph: ir.Graph,
    value: ir.Value,
    shape: tuple[int, ...],
    kind: Planes,
    aligned: int,
    rank: int,
    further: float = 0.0,
) -> ir.Value:
    """``[1, N or 1, C, 1, 1]``, filled up with ``further``, for planes of a rank; flat for norms."""
    numbers = constant(value)
    if numbers is None:
        raise ValueError(f"{value.name} is no constant")
    full = torch.from_numpy(np.array(numbers)).reshape(shape)
    full = fill(full, 2, aligned, further)
    if rank == FLAT:
        full = full.expand(-1, kind.rotations, -1, -1, -1).flatten(1, 2)
    result: Array = (full.flatten() if numbers.ndim == 1 else full).numpy()
    return add_constant(graph, f"{value.name}_aligned", result)


def _take_planes(graph: ir.Graph, node: ir.Node, views: Views) -> None:
    """A plain convolution on planes: its weight ``[O, C·N, kh, kw]`` in their order, and filled up."""
    value, kind, aligned = _aligned(node.inputs[0])
    numbers = constant(node.inputs[1])
    if numbers is None or node.inputs[1] is None:
        raise ValueError("a plain convolution has a constant weight")
    weight = torch.unflatten(torch.from_numpy(np.array(numbers)), 1, (kind.channels, kind.rotations))
    weight = fill(weight.transpose(1, 2), 2, aligned).flatten(1, 2)  # [O, N·C', kh, kw]
    node.replace_input_with(0, views.flat(node, value, kind.rotations * aligned))
    node.replace_input_with(1, add_constant(graph, f"{node.inputs[1].name}_planes", weight.numpy()))
