"""What a migration of a state dict would do, before a tensor moves."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ceconv_convert.conversion.read_state_dict import TensorLayer, layers_in_state
from ceconv_convert.conversion.rows import Plan, PlanRow
from ceconv_convert.errors import SpecError
from ceconv_convert.kernel.color import rotations_of


def plan_tensors(state: Mapping[str, Tensor], form: str) -> Plan:
    """One row a layer: what its tensors tell. Stride and padding they do not, nor the rotations out of some.

    Raises:
        SpecError: for a form other than ``conv3d``, the only one that a state dict alone can take.
        StateDictError: where it is ambiguous which tensors are layers.
    """
    if form != "conv3d":
        raise SpecError(f"a state dict is migrated to conv3d alone, found form={form!r}")
    return Plan(form, tuple(_row(layer, state, form) for layer in layers_in_state(state)))


def _row(layer: TensorLayer, state: Mapping[str, Tensor], form: str) -> PlanRow:
    weight = layer.weight if layer.pointwise is None else layer.pointwise * layer.weight
    bias = state.get(f"{layer.name}bias")
    kept = [tensor for tensor in (bias, layer.matrix) if tensor is not None]
    before = [layer.weight, *kept] if layer.pointwise is None else [layer.weight, layer.pointwise, *kept]
    rotations = 1 if layer.matrix is not None else weight.shape[2]
    out_rotations = rotations if layer.matrix is None else rotations_of(layer.matrix)
    return PlanRow(
        name=layer.name.rstrip("."),
        bytes_before=_bytes(before),
        kind=layer.kind,
        rotations=None if out_rotations is None else (rotations, out_rotations),
        channels=(weight.shape[1], weight.shape[0]),
        kernel_size=(weight.shape[3], weight.shape[4]),
        form=form,
        bytes_after=_bytes([weight, *kept]),
    )


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
