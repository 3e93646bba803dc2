"""A live module → kernel spec, following what its forward pass computes.

``stride`` and ``padding`` count; ``dilation``, ``groups`` and ``padding_mode`` are declared by the published
layer and ignored by its forward pass. Every parameter, buffer and sub-module has to be accounted for, and
for a class other than ours the numbers have the last word.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ceconv_convert.conversion.derivatives import CLASS_NAMES, REFUSED_CLASSES, known_reason
from ceconv_convert.conversion.probe_forward import disagreement
from ceconv_convert.errors import SpecError, shown
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.spec import (
    CyclicSpec,
    KernelSpec,
    LiftingSpec,
    factors_problem,
    is_number,
    normalize_padding,
    normalize_pair,
)
from ceconv_convert.layers.ceconv2d import PICKLED_AS, CEConv2d
from ceconv_convert.surgery import copy_model

_ATTRIBUTES = frozenset(
    (
        *("training", "in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode"),
        *("dilation", "groups", "transposed", "output_padding"),
        *("in_rotations", "out_rotations", "separable", "learnable"),
    )
)


@dataclass(frozen=True)
class Refusal:
    """Why a layer that looks color-equivariant is not converted."""

    reason: str


@dataclass(frozen=True, eq=False)
class LayerReading:
    """A layer's spec, and its kind in the words of the paper: lifting, hidden or separable."""

    kind: str
    spec: KernelSpec


def is_candidate(module: nn.Module) -> bool:
    """Whether ``module`` looks like a color-equivariant convolution that is not converted yet.

    A block may keep the numbers of rotations that it gives to the layers inside it, and is none itself.
    """
    if isinstance(module, TargetLayer):
        return False
    if _is_named_as_one(module):
        return True
    return _declares_rotations(module) and not any(
        isinstance(inner, TargetLayer) or _is_named_as_one(inner) or _declares_rotations(inner)
        for inner in module.modules()
        if inner is not module
    )


def _is_named_as_one(module: nn.Module) -> bool:
    names = {cls.__name__ for cls in type(module).__mro__}
    return bool(names & (CLASS_NAMES | REFUSED_CLASSES.keys()))


def _declares_rotations(module: nn.Module) -> bool:
    return {"in_rotations", "out_rotations"} <= vars(module).keys()


def read_layer(module: nn.Module) -> LayerReading | Refusal:
    """What a candidate computes, or why that cannot be said.

    The module is not changed. Tensors of the spec are the module's own parameters where these act as they
    are, and ``requires_grad`` follows through products of them.
    """
    for cls in type(module).__mro__:
        if cls.__name__ in REFUSED_CLASSES:
            return Refusal(REFUSED_CLASSES[cls.__name__])
    try:
        if getattr(module, "in_rotations", None) is not None:
            _integer(module, "in_rotations")  # what else is expected depends on it
        unknown = _unaccounted(module)
        if unknown:
            return Refusal(_explain(unknown))
        reading = read_again(module)
    except SpecError as error:
        return Refusal(str(error))
    if reading.spec.weight.is_meta and (reading.kind == "lifting" or not is_ours(module)):
        return Refusal("its tensors are on the meta device and have no numbers: load the weights first")
    if is_ours(module):
        return reading
    # The published layer runs in the default dtype alone, whatever its parameters' dtype.
    trial = copy_model(module).to("cpu", torch.get_default_dtype()).eval()
    difference = disagreement(trial, _read(trial).spec)
    return reading if difference is None else Refusal(difference)


def read_again(module: nn.Module) -> LayerReading:
    """What a layer computes that ``read_layer`` took, or a copy of it; nothing is checked by running it.

    Raises:
        SpecError: where its attributes and parameters do not fit together.
    """
    if parametrize.is_parametrized(module):
        # In training mode some parametrizations update their buffers whenever they are read.
        module = copy_model(module).eval()
    with torch.enable_grad():
        return _read(module)


def _read(module: nn.Module) -> LayerReading:
    in_rotations = _integer(module, "in_rotations")
    out_rotations = _integer(module, "out_rotations")
    weight = _tensor(module, "weight")
    bias = _optional_tensor(module, "bias")
    matrix = _optional_tensor(module, "transformation_matrix")
    pointwise = _optional_tensor(module, "pointwise_weight")
    kind = "lifting" if in_rotations == 1 else "separable" if pointwise is not None else "hidden"
    if kind == "lifting" and pointwise is not None:
        raise SpecError("a lifting layer has no pointwise_weight, found one")
    if pointwise is not None:
        separable = getattr(module, "separable", True)
        if not isinstance(separable, int) or not separable:
            raise SpecError(f"it has a pointwise_weight and says separable={shown(separable)}")
        weight = _product(module, weight, pointwise, in_rotations)
    declared = (_integer(module, "out_channels"), _integer(module, "in_channels"))
    kernel_size = normalize_pair(getattr(module, "kernel_size", ()))
    expected = (*declared, in_rotations, *kernel_size)
    if weight.shape != expected:
        raise SpecError(f"its weight has shape {list(weight.shape)}, its attributes say {list(expected)}")
    stride = normalize_pair(getattr(module, "stride", ()))
    padding = normalize_padding(getattr(module, "padding", ()), kernel_size, stride)
    if kind != "lifting":
        if matrix is not None:
            raise SpecError("a cyclic layer has no color matrix")
        return LayerReading(kind, CyclicSpec(weight, bias, out_rotations, stride, padding))
    if matrix is None:
        raise SpecError("a lifting layer has a color matrix of shape [3, 3], found None")
    return LayerReading(kind, LiftingSpec(weight, bias, out_rotations, stride, padding, matrix))


def _product(module: nn.Module, spatial: Tensor, pointwise: Tensor, in_rotations: int) -> Tensor:
    """``[O, I or 1, 1, kh, kw]`` · ``[O, I, N_in, 1, 1]`` → ``[O, I, N_in, kh, kw]``.

    Older layers share one spatial factor among the input channels: it broadcasts.
    """
    out_channels, in_channels = _integer(module, "out_channels"), _integer(module, "in_channels")
    if pointwise.shape != (out_channels, in_channels, in_rotations, 1, 1):
        raise SpecError(
            f"its pointwise_weight has shape {list(pointwise.shape)}, "
            f"expected {[out_channels, in_channels, in_rotations, 1, 1]}"
        )
    if spatial.dim() != 5 or spatial.shape[:3] not in {(out_channels, n, 1) for n in (1, in_channels)}:
        raise SpecError(
            f"its weight has shape {list(spatial.shape)}, expected [{out_channels}, {in_channels}, 1, kh, kw]"
        )
    problem = factors_problem(spatial.shape, pointwise.shape)
    if problem is not None:
        raise SpecError(f"its weight and pointwise_weight do not fit: {problem}")
    return pointwise * spatial


def _optional_tensor(module: nn.Module, name: str) -> Tensor | None:
    return None if getattr(module, name, None) is None else _tensor(module, name)


def _tensor(module: nn.Module, name: str) -> Tensor:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise SpecError(f"it has no tensor {name!r}, found {type(value).__name__}")
    return value


def _integer(module: nn.Module, name: str) -> int:
    value = getattr(module, name, None)
    if not is_number(value):
        raise SpecError(f"its {name!r} is not a whole number, found {shown(value)}")
    return value


def is_ours(module: nn.Module) -> bool:
    """Our class, also where torch put a generated parametrized class on top of it."""
    cls = type(module)
    if parametrize.is_parametrized(module):
        cls = cls.__bases__[0]
    return cls is CEConv2d


def _unaccounted(module: nn.Module) -> list[str]:
    """Names of parameters, buffers, sub-modules and methods that the published layer does not have."""
    expected = {"weight", "bias"}
    expected.add(
        "transformation_matrix" if getattr(module, "in_rotations", None) == 1 else "pointwise_weight"
    )
    tensors = [name for name, _ in module.named_parameters()] + [name for name, _ in module.named_buffers()]
    unknown = []
    for name in tensors:
        inner = name.removeprefix("parametrizations.").split(".")[0]
        if inner not in expected:
            unknown.append(name)
    unknown += [name for name, _ in module.named_children() if name != "parametrizations"]
    if is_ours(module):
        unknown += [name for name, value in vars(module).items() if _is_foreign(module, name, value)]
    return sorted(set(unknown))


def _is_foreign(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute of a layer of our own class says that it is another layer.

    One that hides a method or a parameter does. Other attributes change nothing that our class computes,
    unless the layer was pickled under another class name: then they are all that is left of that class. A
    derivative's switch that is off changes nothing there either.
    """
    if callable(getattr(type(module), name, None)) or name in module._parameters:
        return True
    if PICKLED_AS not in vars(module) or name.startswith("_") or name in _ATTRIBUTES:
        return False
    return value is not False and value is not None


def _explain(unknown: list[str]) -> str:
    reason = known_reason(unknown)
    names = ", ".join(unknown)
    return (
        f"{reason} (found {names})" if reason else f"the published layer has no {names}: not the same layer"
    )
