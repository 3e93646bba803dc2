"""What the compiler notes beside the nodes and values of a graph, for the passes that follow.

| note     | beside | what it is                              | set by               | read by        |
|----------|--------|-----------------------------------------|----------------------|----------------|
| `layer`  | node   | what a node of the dialect computes     | compile, fold_norms  | all passes     |
| `form`   | node   | how its layer is written                | choose               | write_layer    |
| `layout` | value  | of a rotation-major value; else None    | form_regions, choose | later passes   |
| `rank`   | value  | that it was written in; images are flat | lower, write_layer   | editing, lower |
| `size`   | value  | height and width, of some values alike  | lower, write_layer   | editing, lower |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from ceconv_convert.forms.table import Form
from ceconv_convert.kernel.spec import KernelSpec, Pair
from ceconv_convert.onnx.boundaries import Folded

FLAT, SPLIT = 4, 5
"""The ranks of features: ``[B, C·N, H, W]`` and ``[B, C, N, H, W]``, or rotation-major, as of ``Layout``."""
_KEY = "ceconv_convert"


@dataclass(frozen=True, eq=False)
class Layer:
    """What a color-equivariant layer in the graph computes.

    Attributes:
        name: its module's path.
        spec: in float64.
        size: height and width of its input in the exported example: what costs are estimated by.
        dtype: of the network.
        norms: batch norms that were folded into its spec.
    """

    name: str
    spec: KernelSpec
    size: Pair
    dtype: torch.dtype
    norms: tuple[Folded, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Of a rotation-major value of C channels and N rotations: ``[B, N, C', H, W]`` or ``[B, N·C', H, W]``.

    ``padded`` is C' ≥ C, with the channel padding; 0 until it is chosen.
    """

    channels: int
    rotations: int
    padded: int = 0


@dataclass(eq=False)
class Size:
    """The height and width that some values share; ``value`` holds them in the graph, once needed."""

    value: ir.Value | None = None


@dataclass(eq=False)
class Notes:
    """Beside one node or value."""

    layer: Layer | None = None
    form: Form | None = None
    layout: Layout | None = None
    rank: int = FLAT
    size: Size = field(default_factory=Size)


def notes(item: ir.Node | ir.Value) -> Notes:
    """The notes beside a node or value."""
    found: Notes = item.meta.setdefault(_KEY, Notes())
    return found


def layer_of(node: ir.Node) -> Layer:
    """What a node of the dialect computes."""
    layer = notes(node).layer
    if layer is None:
        raise ValueError(f"{node.name} has no layer beside it")
    return layer


def layout_of(value: ir.Value | None) -> Layout | None:
    """The layout of a rotation-major value; None for every other one."""
    return None if value is None else notes(value).layout


def major_layout(value: ir.Value | None) -> tuple[ir.Value, Layout]:
    """A value that has to be rotation-major here, and its layout."""
    layout = layout_of(value)
    if value is None or layout is None:
        raise ValueError("an operator on rotation-major features takes some")
    return value, layout
