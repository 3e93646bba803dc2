"""A rotation-major layer as standard operators, in the form that was chosen for it.

[B, N_in, I', H, W] → T, a 1×1×1 convolution over the rotations → [B, g·b, I', H, W]
→ one convolution in g groups → [B, g·a, O', H', W'] → U, a 1×1×1 convolution → [B, N_out, O', H', W']

Channels are padded with zeros, in the weights. Weights are formed in float64 and rounded once. Two layers
with the same input and T share T·x: the compiler eliminates common subexpressions.
"""

from __future__ import annotations

import onnx_ir as ir
import torch.nn.functional as F
from torch import Tensor

from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.onnx.notes import FLAT, SPLIT, Layout, layer_of, layout_of, major_layout, notes
from ceconv_convert.onnx.passes.editing import add_constant, in_rank, insert, noted


def write_layer(node: ir.Node) -> ir.Value:
    """Write a ``RotationMajorLayer`` before ``node``; its output."""
    layer, form, value = layer_of(node), notes(node).form, node.inputs[0]
    if form is None or form.factors is None or value is None:
        raise ValueError(f"the layer {layer.name} has no input, or no form that can be written")
    spec, factors = layer.spec, form.factors(layer.spec)
    groups, _, out_channels, columns, in_channels = factors.weight.shape[:5]
    layout, (_, out_layout) = layout_of(value), major_layout(node.outputs[0])
    padded_in = in_channels if layout is None else layout.padded
    padded_out = out_layout.padded

    def rounded(kind: str, numbers: Tensor) -> ir.Value:
        name = f"{layer.name}.{kind}" if layer.name else kind
        return add_constant(node, name, numbers.to(layer.dtype).numpy())

    def mix(kind: str, x: ir.Value, matrix: Tensor, channels: int) -> ir.Value:
        split = in_rank(node, x, SPLIT, Layout(channels, matrix.shape[1], channels))
        mixed = insert(node, "Conv", [split, rounded(kind, matrix[:, :, None, None, None])])
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
