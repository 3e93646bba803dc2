"""What a conversion would do, before a tensor moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.read_module import Refusal
from ceconv_convert.conversion.rows import Plan, PlanRow
from ceconv_convert.conversion.tensor_plan import plan_tensors
from ceconv_convert.forms.table import AUTO, form_named
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.spec import KernelSpec


def plan(model: nn.Module | Mapping[str, Tensor], form: str = "conv3d") -> Plan:
    """What ``convert(model, form)``, or ``migrate_state_dict(model)``, would do.

    Args:
        model: any module, or a state dict; it is not changed.
        form: ``conv3d``, ``conv2d`` or ``fourier``; ``auto`` for a module that becomes an ``.onnx`` file.

    Raises:
        SpecError: for a form that does not exist, or that a state dict cannot take.
        StateDictError: for a state dict that does not tell which tensors are layers.

    >>> from ceconv_convert.layers import CEConv2d
    >>> [row.kind for row in plan(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), CEConv2d(3, 3, 8, 8, 3)))]
    ['lifting', 'separable']
    """
    if form != AUTO or not isinstance(model, nn.Module):
        form_named(form)
    if not isinstance(model, nn.Module):
        return plan_tensors(model, form)
    return plan_layers(model, find_layers(model), form)


def plan_layers(model: nn.Module, found: Sequence[FoundLayer], form: str) -> Plan:
    """The plan for layers already found."""
    converted = sum(isinstance(module, TargetLayer) for module in model.modules())
    return Plan(form, tuple(_row(layer, form) for layer in found), converted)


def _row(layer: FoundLayer, form: str) -> PlanRow:
    name, *aliases = layer.names
    before = _bytes(layer.module)
    if isinstance(layer.reading, Refusal):
        return PlanRow(name, before, tuple(aliases), refusal=layer.reading.reason)
    spec = layer.reading.spec
    return PlanRow(
        name=name,
        bytes_before=before,
        aliases=tuple(aliases),
        kind=layer.reading.kind,
        rotations=(spec.in_rotations, spec.out_rotations),
        channels=(spec.in_channels, spec.out_channels),
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        form=AUTO if form == AUTO else form_named(form).used(spec),
        bytes_after=None if form == AUTO else _bytes_after(spec, form),
    )


def _bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes_after(spec: KernelSpec, form: str) -> int:
    return sum(math.prod(shape) for shape in form_named(form).shapes(spec).values()) * spec.dtype.itemsize
