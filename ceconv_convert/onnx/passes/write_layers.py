"""A layer on planes as standard operators, in the form that was chosen for it.

direct:   [B, N_in·I', H, W] → one convolution → [B, N_out·O', H', W']
fourier:  [B, N, I', H, W] → T, a 1×1×1 convolution N → m → [B, m·I', H, W] → one convolution in g groups
          → [B, m, O', H', W'] → U, a 1×1×1 convolution m → N → [B, N, O', H', W']
          g = m products, or, as fourier pairs, g = m/2 products of twice the channels
hue:      [B, 3, H, W] → one convolution → [B, 3, O', H', W'] → a 1×1×1 convolution 3 → N

Channels are filled up with zeros, in the weights. Weights are formed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from ceconv_convert.kernel.cyclic_fourier import transform_bias, transform_of, transform_weight
from ceconv_convert.kernel.expand import expand
from ceconv_convert.kernel.hue_rotation import PARTS, hue_transform, hue_weight
from ceconv_convert.kernel.spec import LiftingSpec
from ceconv_convert.onnx.dialect import Layer, layer_of
from ceconv_convert.onnx.passes.costs import FOURIER
from ceconv_convert.onnx.passes.planes import planes_of
from ceconv_convert.onnx.passes.tools import Array, Attributes, add_constant, insert
from ceconv_convert.onnx.passes.views import FLAT, SPLIT, Views


@dataclass(frozen=True, eq=False)
class Context:
    """A layer at its place.

    Attributes:
        graph: the graph.
        node: the layer's; what is written goes before it.
        layer: its meaning.
        views: the graph's.
        channels: I' and O'.
    """

    graph: ir.Graph
    node: ir.Node
    layer: Layer
    views: Views
    channels: tuple[int, int]

    def constant(self, kind: str, numbers: Tensor) -> ir.Value:
        """An initializer in the network's dtype, under the layer's name."""
        rounded: Array = numbers.to(self.layer.dtype).numpy()
        return add_constant(self.graph, f"{self.layer.name}.{kind}" if self.layer.name else kind, rounded)

    def convolve(self, x: ir.Value, weight: Tensor, bias: Tensor | None, groups: int) -> ir.Value:
        """The spatial convolution; ``weight`` has its channels filled up already."""
        spec = self.layer.spec
        (top, bottom), (left, right) = spec.padding
        inputs = [x, self.constant("weight", weight)]
        if bias is not None:
            inputs.append(self.constant("bias", bias))
        attributes: Attributes = {
            "group": groups,
            "strides": list(spec.stride),
            "pads": [top, left, bottom, right],
            "kernel_shape": list(spec.kernel_size),
        }
        return insert(self.node, "Conv", inputs, attributes)

    def mix(self, kind: str, x: ir.Value, factors: Tensor) -> ir.Value:
        """A matrix on the rotations, ``[B, columns, C, H, W]`` → ``[B, rows, C, H, W]``."""
        weight = self.constant(kind, factors[:, :, None, None, None])
        return self.views.give(insert(self.node, "Conv", [x, weight]), SPLIT, as_large_as=x)

    @property
    def keeps_size(self) -> bool:
        """Whether height and width stay what they are."""
        spec = self.layer.spec
        extents = zip(spec.padding, spec.kernel_size, spec.stride, strict=True)
        return all(sum(zeros) == kernel - 1 and stride == 1 for zeros, kernel, stride in extents)


def write_layer(
    graph: ir.Graph, node: ir.Node, views: Views, transformed: dict[tuple[ir.Value, int], ir.Value]
) -> ir.Value:
    """Write a ``PlanesLayer`` as standard operators before ``node``; what it gives.

    ``transformed`` has the transforms of values that were made already, by width: two layers may take one.
    """
    layer, x = layer_of(node), node.inputs[0]
    if x is None:
        raise ValueError(f"{layer.name} takes nothing")
    source = x.meta.get("aligned", layer.spec.in_channels)
    context = Context(graph, node, layer, views, (source, node.outputs[0].meta["aligned"]))
    form = node.meta["form"]
    if form in FOURIER:
        return _fourier(context, x, transformed, FOURIER[form])
    return _hue(context, x) if form == "hue" else _direct(context, x)


def _direct(context: Context, x: ir.Value) -> ir.Value:
    spec, views, (channels_in, channels_out) = context.layer.spec, context.views, context.channels
    rotations_in, rotations_out = spec.in_rotations, spec.out_rotations
    weight = torch.unflatten(expand(spec), 0, (-1, rotations_out))  # [O, N_out, I·N_in, kh, kw]
    weight = torch.unflatten(weight, 2, (-1, rotations_in))  # [O, N_out, I, N_in, kh, kw]
    weight = weight.permute(1, 0, 3, 2, 4, 5)  # [N_out, O, N_in, I, kh, kw]
    weight = fill(fill(weight, 1, channels_out), 3, channels_in).flatten(2, 3).flatten(0, 1)
    bias = None if spec.bias is None else fill(spec.bias, 0, channels_out).repeat(rotations_out)
    flat = x if planes_of(x) is None else views.flat(context.node, x, rotations_in * channels_in)
    y = context.convolve(flat, weight, bias, 1)
    return views.give(y, FLAT, as_large_as=x if context.keeps_size else None)


def _fourier(
    context: Context, x: ir.Value, transformed: dict[tuple[ir.Value, int], ir.Value], width: int
) -> ir.Value:
    spec, views, (channels_in, channels_out) = context.layer.spec, context.views, context.channels
    rotations, node = spec.in_rotations, context.node
    transform = transform_of(rotations, width)
    products = transform.products
    if (x, width) not in transformed:
        split = views.split(node, x, rotations, channels_in)
        frequencies = context.mix("transform", split, transform.forward)  # [B, m, I', H, W]
        transformed[x, width] = views.flat(node, frequencies, products * channels_in)
    weight = transform_weight(spec.weight, transform)  # [g, b, O, b, I, kh, kw]
    weight = fill(fill(weight, 2, channels_out), 4, channels_in).flatten(0, 2).flatten(1, 2)
    bias = None
    if spec.bias is not None:
        bias = transform_bias(fill(spec.bias, 0, channels_out), transform.inverse)
    y = context.convolve(transformed[x, width], weight, bias, transform.groups)
    views.give(y, FLAT, as_large_as=x if context.keeps_size else None)
    return context.mix("inverse", views.split(node, y, products, channels_out), transform.inverse)


def _hue(context: Context, x: ir.Value) -> ir.Value:
    spec, views, (_, channels_out) = context.layer.spec, context.views, context.channels
    if not isinstance(spec, LiftingSpec):
        raise TypeError("the hue form is of lifting layers")
    weight = fill(torch.unflatten(hue_weight(spec), 0, (PARTS, -1)), 1, channels_out).flatten(0, 1)
    bias = None
    if spec.bias is not None:  # to the grey part, which all rotations have alike
        bias = fill(fill(spec.bias, 0, channels_out), 0, PARTS * channels_out)
    y = views.give(context.convolve(x, weight, bias, 1), FLAT, as_large_as=x if context.keeps_size else None)
    split = views.split(context.node, y, PARTS, channels_out)
    return context.mix("inverse", split, hue_transform(spec.out_rotations))


def fill(numbers: Tensor, axis: int, size: int, value: float = 0.0) -> Tensor:
    """Zeros, or another ``value``, behind ``numbers`` along an axis, up to ``size``.

    >>> fill(torch.ones(2), 0, 3).tolist()
    [1.0, 1.0, 0.0]
    """
    missing = size - numbers.shape[axis]
    if not missing:
        return numbers
    shape = [missing if i == axis else n for i, n in enumerate(numbers.shape)]
    return torch.cat([numbers, numbers.new_full(shape, value)], dim=axis)
