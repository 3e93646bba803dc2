"""A color-equivariant layer as one node of the exported graph: passes work on meaning, not on patterns.

The node has one input and one output, and a name; what it computes is noted beside it. Passes turn it into
nodes on rotation-major features, and these into standard operators.

* ``Layer``: ``[B, I, N_in, H, W]``, or ``[B, 3, H, W]`` for lifting → ``[B, O, N_out, H', W']``
* ``RotationMajorLayer``: the same, rotation-major, ``[B, N_in·I, H, W]`` → ``[B, N_out·O, H', W']``
* ``ToRotationMajor``: ``[B, C, N, H, W]`` → rotation-major
* ``FromRotationMajor``: rotation-major → ``[B, C, N, H, W]`` or ``[B, C·N, H, W]``, by its attribute ``rank``

What passes note beside nodes and values, for the passes that follow:

| note     | beside | what it is                              | set by               | read by        |
|----------|--------|-----------------------------------------|----------------------|----------------|
| `layer`  | node   | what a node of the dialect computes     | compile, fold_norms  | all passes     |
| `form`   | node   | how its layer is written                | choose               | lower          |
| `layout` | value  | of a rotation-major value; else None    | form_regions, choose | later passes   |
| `rank`   | value  | that it was written in; images are flat | lower                | editing, lower |
| `size`   | value  | height and width, of some values alike  | lower                | editing, lower |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ceconv_convert.forms.table import Form
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.closed_form import evaluate
from ceconv_convert.kernel.rotation_major import flatten_rotations, give_features
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec, Pair, scaled
from ceconv_convert.onnx.boundaries import Folded

DOMAIN = "ceconv.dialect"
LAYER, MAJOR_LAYER = "Layer", "RotationMajorLayer"
TO_MAJOR, FROM_MAJOR = "ToRotationMajor", "FromRotationMajor"
FLAT, SPLIT = 4, 5
"""The ranks of features: ``[B, C·N, H, W]`` and ``[B, C, N, H, W]``, or rotation-major, as of ``Layout``."""
_KEY = "ceconv_convert"


@dataclass(frozen=True, eq=False)
class Layer:
    """What a color-equivariant layer in the graph computes."""

    name: str  # its module's path
    spec: KernelSpec  # without the norms
    size: Pair  # height and width of its input in the exported example: what costs are estimated by
    norms: tuple[Folded, ...] = ()  # batch norms that are folded into it, …
    scale: Tensor | None = None  # … which multiply its output, [O], float64, …
    shift: Tensor | None = None  # … and then add to it

    def followed_by(self, norm: Folded, scale: Tensor, shift: Tensor) -> "Layer":
        """With a further norm, of ``scale`` and ``shift``, ``[O]`` each in float64."""
        moved = None if self.shift is None else scale * self.shift
        if norm.shifts:
            moved = shift if moved is None else moved + shift
        scale = scale if self.scale is None else scale * self.scale
        return replace(self, norms=(*self.norms, norm), scale=scale, shift=moved)

    def folded_spec(self) -> KernelSpec:
        """With the norms, in float64: as large as its weights, and formed where it is needed."""
        spec = self.spec.map(lambda tensor: tensor.cpu().double())
        return spec if self.scale is None else scaled(spec, self.scale, self.shift)


@dataclass(frozen=True)
class Layout:
    """Of a rotation-major value, C channels and N rotations: ``[B, N, C', H, W]`` or ``[B, N·C', H, W]``."""

    channels: int
    rotations: int
    padded: int = 0  # C' ≥ C, with the channel padding; 0 until it is chosen


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


class SymbolicLayer(TargetLayer):
    """A layer that is exported as one node; in eager mode it computes what the layer does."""

    form = "symbolic"

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.take_over(spec)
        self.kernel_size, self.stride = spec.kernel_size, spec.stride  # networks read them for their shapes
        self.spec = spec.map(Tensor.detach)
        self.name = ""  # its path, once ``name_layers`` set it
        # Height and width of the input that it was last exported with; torch restores plain attributes.
        self.exported = SimpleNamespace(size=None)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, I, N, H, W]``, or what lies in memory like it, → ``[B, O, N_out, H', W']``."""
        if not torch.compiler.is_exporting():
            return evaluate(self.spec, input)
        if not torch.compiler.is_dynamo_compiling():  # in a branch, as of torch.cond, nothing may be kept
            self.exported.size = (_hint(input.shape[-2]), _hint(input.shape[-1]))
        x = flatten_rotations(input) if isinstance(self.spec, LiftingSpec) else self.take(input)
        sizes = self.spec.out_size(x.shape[-2:])
        features: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{LAYER}",
            (x,),
            attrs={"name": self.name},
            dtype=x.dtype,
            shape=(x.shape[0], self.out_channels, self.out_rotations, *sizes),
            version=1,
        )
        return give_features(features, self.group_major)


def _hint(size: int | torch.SymInt) -> int:
    """A symbolic size as it is of the example."""
    return size if isinstance(size, int) else int(size.node.hint)


def name_layers(model: nn.Module) -> dict[str, SymbolicLayer]:
    """Set the names of all symbolic layers of ``model`` to their paths; the layers by name."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, SymbolicLayer)}
    for name, module in found.items():
        module.name = name
    return found


def layers_as_exported(layers: Mapping[str, SymbolicLayer], example: Tensor) -> dict[str, Layer]:
    """What each layer computes, and at which image size; a layer in a branch has that of the example."""
    usual = (example.shape[-2], example.shape[-1])
    return {name: Layer(name, layer.spec, layer.exported.size or usual) for name, layer in layers.items()}


def is_dialect(node: ir.Node | None, op_type: str) -> bool:
    """Whether ``node`` is one of the dialect's, of that type."""
    return node is not None and node.domain == DOMAIN and node.op_type == op_type
