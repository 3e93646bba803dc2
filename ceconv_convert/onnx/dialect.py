"""A color-equivariant layer as one node of the exported graph: passes work on meaning, not on patterns.

The node has one input and one output, and a name; what it computes, its kernel spec, lies beside it. Passes
turn it into nodes on *planes*, features whose rotations lie outermost, and these into standard operators.

* ``Layer``: ``[B, I, N_in, H, W]``, or ``[B, 3, H, W]`` for lifting → ``[B, O, N_out, H', W']``
* ``PlanesLayer``: the same on planes, ``[B, N_in·I, H, W]`` → ``[B, N_out·O, H', W']``
* ``ToPlanes``: ``[B, C, N, H, W]`` → planes
* ``FromPlanes``: planes → ``[B, C, N, H, W]``, or flat, ``[B, C·N, H, W]``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.rotation_major import join_planes, split_planes
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec, Pair
from ceconv_convert.onnx.boundaries import Folded

DOMAIN = "ceconv.dialect"
LAYER, PLANES_LAYER, TO_PLANES, FROM_PLANES = "Layer", "PlanesLayer", "ToPlanes", "FromPlanes"


@dataclass(frozen=True, eq=False)
class Layer:
    """What a node of the dialect computes.

    Attributes:
        name: its module's path.
        spec: in float64.
        size: height and width of its input in the exported example: what costs are estimated by.
        dtype: of the network.
        norms: what its spec took up.
    """

    name: str
    spec: KernelSpec
    size: Pair
    dtype: torch.dtype
    norms: tuple[Folded, ...] = ()


@dataclass(frozen=True)
class Planes:
    """A value with its rotations outermost: ``[B, N·C', H, W]`` with C' ≥ C, as the compiler aligns it."""

    channels: int
    rotations: int


class SymbolicLayer(TargetLayer):
    """A layer that is exported as one node; in eager mode it computes what the layer does.

    Attributes:
        spec: what it computes.
        name: its path, once ``name_layers`` gave it.
        size: height and width of what it computed last; None before.
    """

    form = "symbolic"

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.take_over(spec)
        self.kernel_size, self.stride = spec.kernel_size, spec.stride  # networks read them for their shapes
        self.spec = spec.map(Tensor.detach)
        self.name = ""
        self.size: Pair | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or what lies in memory like it, → ``[B, O, N_out, H', W']``."""
        if not torch.compiler.is_exporting():
            if not torch.compiler.is_compiling():  # in a branch, as of torch.cond, nothing may be kept
                self.size = (input.shape[-2], input.shape[-1])
            return evaluate(self.spec, input)
        if isinstance(self.spec, LiftingSpec):
            x = join_planes(input)
        else:
            x = split_planes(input, self.in_channels, self.in_rotations)
        sizes = self.spec.out_size(x.shape[-2:])
        features: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{LAYER}",
            (x,),
            attrs={"name": self.name},
            dtype=x.dtype,
            shape=(x.shape[0], self.out_channels, self.out_rotations, *sizes),
            version=1,
        )
        return features


def name_layers(model: nn.Module, example: Tensor) -> dict[str, Layer]:
    """Give every symbolic layer of ``model`` its path as a name; the meaning of each, by name.

    Runs the model once, on ``example``, for the image sizes; of a layer in a branch it has the example's.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, SymbolicLayer)}
    for name, module in found.items():
        module.name = name
    if found:
        with torch.no_grad():
            model(example.clone())
    usual = (example.shape[-2], example.shape[-1])
    return {
        name: Layer(
            name, module.spec.map(lambda t: t.cpu().double()), module.size or usual, module.spec.dtype
        )
        for name, module in found.items()
    }


def attach(graph: ir.Graph, layers: Mapping[str, Layer]) -> None:
    """Lay its meaning beside every node of the dialect."""
    for node in graph:
        if is_dialect(node, LAYER):
            node.meta["layer"] = layers[node.attributes["name"].as_string()]


def is_dialect(node: ir.Node | None, op_type: str) -> bool:
    """Whether ``node`` is one of the dialect's, of that type."""
    return node is not None and node.domain == DOMAIN and node.op_type == op_type


def layer_of(node: ir.Node) -> Layer:
    """The meaning of a ``Layer`` or ``PlanesLayer``."""
    layer = node.meta["layer"]
    if not isinstance(layer, Layer):
        raise TypeError(f"{node.name} has no layer beside it")
    return layer
