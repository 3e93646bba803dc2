"""Fold a batch norm into the layers before it.

In eval mode a norm is, per output channel o with s = γ/√(var + ε) and t = β - μ s, y ↦ s·y + t. It commutes
with everything that a layer does to its channels:
    s·(w ∗ x + b) + t = (s w) ∗ x + (s b + t)
and over a residual addition, where each summand is a layer's: s·(y₁ + y₂) + t = (s y₁ + t) + s y₂.
"""

from __future__ import annotations

from dataclasses import replace as replaced

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ceconv_convert.graph.dialect import LAYER, Layer, is_dialect, layer_of
from ceconv_convert.graph.passes.tools import constant, integer, is_taken, replace


def fold_norms(graph: ir.Graph) -> list[list[str]]:
    """Fold every batch norm that follows layers alone; the names of the layers, one list a norm."""
    norms = [node for node in graph if node.op_type == "BatchNormalization"]
    return [names for names in map(_fold, norms) if names]


def _fold(norm: ir.Node) -> list[str]:
    numbers = [constant(value) for value in norm.inputs[1:5]]
    value = norm.inputs[0]
    found = _layers_before(value)
    if (
        value is None
        or found is None
        or any(array is None for array in numbers)
        or any(map(is_taken, norm.outputs[1:]))
        or integer(norm, "training_mode")
    ):
        return []
    gamma, beta, mean, variance = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in numbers)
    epsilon = norm.attributes.get("epsilon")
    scale = gamma / torch.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    shift = beta - mean * scale
    if any(layer_of(node).spec.out_channels != len(scale) for node in found):
        return []  # a summand that is broadcast over the channels
    for index, node in enumerate(found):
        node.meta["layer"] = _scaled(layer_of(node), scale, shift if index == 0 else torch.zeros_like(shift))
    replace(norm, value)
    return [layer_of(node).name for node in found]


def _layers_before(value: ir.Value | None) -> list[ir.Node] | None:
    """The layers whose sum ``value`` is, where nobody else takes it or them; else None."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    node = value.producer()
    if node is None:
        return None
    if is_dialect(node, LAYER):
        return [node]
    if node.op_type != "Add" or node.domain:
        return None
    found = [_layers_before(summand) for summand in node.inputs]
    return None if None in found else [layer for layers in found if layers is not None for layer in layers]


def _scaled(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    spec = layer.spec
    bias = shift if spec.bias is None else spec.bias * scale + shift
    weight = spec.weight * scale[:, None, None, None, None]
    return replaced(layer, spec=replaced(spec, weight=weight, bias=bias))
