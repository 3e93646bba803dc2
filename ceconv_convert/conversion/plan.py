"""What a conversion would do, before a tensor moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.conversion.plan_table import Plan, PlanRow
from ceconv_convert.conversion.read_module import Refusal
from ceconv_convert.conversion.read_state_dict import LayerTensors, layers_in_state
from ceconv_convert.errors import SpecError
from ceconv_convert.forms.table import AUTO, form_named
from ceconv_convert.forms.target import TargetLayer


def plan(model: nn.Module | Mapping[str, Tensor], form: str = "conv3d") -> Plan:
    """What ``convert(model, form)``, or ``migrate_state_dict(model)``, would do.

    A state dict does not tell stride and padding, nor the rotations out of some layers.

    Args:
        model: any module, or a state dict; it is not changed.
        form: ``conv3d``, ``conv2d`` or ``fourier``; ``auto`` for a module that becomes an ``.onnx`` file;
            of a state dict ``conv3d`` alone.

    Raises:
        SpecError: for a form that does not exist, or that a state dict cannot take.
        StateDictError: for a state dict that does not tell which tensors are layers.

    >>> from ceconv_convert import CEConv2d
    >>> [row.kind for row in plan(nn.Sequential(CEConv2d(1, 3, 3, 8, 3), CEConv2d(3, 3, 8, 8, 3)))]
    ['lifting', 'separable']
    """
    if isinstance(model, nn.Module):
        return plan_layers(model, find_layers(model), form)
    if form_named(form).name != "conv3d":
        raise SpecError(f"a state dict is migrated to conv3d alone, found form={form!r}")
    return Plan(form, tuple(_row_of_tensors(layer, model, form) for layer in layers_in_state(model)))


def plan_layers(model: nn.Module, found: Sequence[FoundLayer], form: str) -> Plan:
    """The plan for layers already found; raises SpecError for a form that does not exist."""
    if form != AUTO:
        form_named(form)
    converted = sum(isinstance(module, TargetLayer) for module in model.modules())
    return Plan(form, tuple(_row(layer, form) for layer in found), converted)


def _row(layer: FoundLayer, form: str) -> PlanRow:
    name, *aliases = layer.names
    before = _bytes([*layer.module.parameters(), *layer.module.buffers()])
    spec = layer.reading
    if isinstance(spec, Refusal):
        return PlanRow(name, before, tuple(aliases), refusal=spec.reason)
    written, after = AUTO, None
    if form != AUTO:
        row = form_named(form)
        written = row.used(spec)
        after = sum(map(math.prod, row.shapes(spec).values())) * spec.dtype.itemsize
    return PlanRow(
        name,
        before,
        tuple(aliases),
        spec.kind,
        rotations=(spec.in_rotations, spec.out_rotations),
        channels=(spec.in_channels, spec.out_channels),
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        form=written,
        bytes_after=after,
    )


def _row_of_tensors(layer: LayerTensors, state: Mapping[str, Tensor], form: str) -> PlanRow:
    weight = layer.effective_weight()
    keys = ("weight", "pointwise_weight", "transformation_matrix", "bias")
    before = _bytes(state[key] for name in keys if (key := f"{layer.name}{name}") in state)
    return PlanRow(
        layer.name.rstrip("."),
        before,
        kind=layer.kind,
        rotations=layer.rotations(),
        channels=(weight.shape[1], weight.shape[0]),
        kernel_size=(weight.shape[3], weight.shape[4]),
        form=form,
        bytes_after=before - _bytes(layer.factors.values()) + _bytes([weight]),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
