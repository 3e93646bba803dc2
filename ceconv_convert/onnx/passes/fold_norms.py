"""Fold a batch norm into the layers before it.

In eval mode a norm scales and shifts channels, and commutes with a layer (``kernel/spec.py``); also
over a residual addition where each summand is a layer's: s·(y₁ + y₂) + t = (s y₁ + t) + s y₂.
"""

import numpy as np
import onnx_ir as ir
import torch

from ceconv_convert.kernel.spec import scale_and_shift
from ceconv_convert.onnx.boundaries import Folded, module_of
from ceconv_convert.onnx.dialect import LAYER, is_dialect, layer_of, notes
from ceconv_convert.onnx.passes.editing import constant, is_taken, replace


def fold_norms(graph: ir.Graph) -> int:
    """Fold every batch norm that follows layers alone; how many."""
    norms = [node for node in graph if node.op_type == "BatchNormalization"]
    return sum(map(_fold, norms))


def _fold(norm: ir.Node) -> bool:
    value, numbers = norm.inputs[0], [constant(value) for value in norm.inputs[1:5]]
    found = _layers_before(value)
    trains = any(map(is_taken, norm.outputs[1:])) or norm.attributes.get_int("training_mode", 0) != 0
    if value is None or found is None or trains or any(array is None for array in numbers):
        return False
    gamma, beta, mean, variance = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in numbers)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    scale, shift = scale_and_shift(gamma, beta, mean, variance, epsilon)
    if any(layer_of(node).spec.out_channels != len(scale) for node in found):
        return False  # a summand that is broadcast over the channels
    for index, node in enumerate(found):
        folded = Folded(module_of(norm), shifts=index == 0)
        notes(node).layer = layer_of(node).followed_by(folded, scale, shift)
    replace(norm, value)
    return True


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
