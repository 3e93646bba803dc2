"""State dict → state dict, without any module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ceconv_convert.conversion.read_state_dict import Direction, LayerTensors, layers_in_state
from ceconv_convert.errors import NothingToConvertError, StateDictError


def migrate_state_dict(
    state: Mapping[str, Tensor], to: Direction = "conv3d", *, hidden: Collection[str] | None = None
) -> OrderedDict[str, Tensor]:
    """The weights of the other form: ``convert(m).load_state_dict(migrate_state_dict(m.state_dict()))``.

    Keys keep their names and order, under any prefix; tensors keep their dtype and device; those that are
    shared stay shared, and what belongs to no color-equivariant layer is passed on as it is. A separable
    layer becomes a hidden one, and comes back as one: its factors are gone.

    Args:
        state: a state dict; it is not changed.
        to: ``conv3d``, or ``ceconv`` for the way back.
        hidden: names of the hidden layers, where their weights cannot be told from those of a plain Conv3d.

    Returns:
        The migrated state dict; without separable layers, there and back is the identity, bit for bit.

    Raises:
        StateDictError: where keys are ambiguous, or the state dict is in both forms at once; they are named.
        NothingToConvertError: where it has no layers, or is in the form ``to`` already.

    >>> from ceconv_convert import CEConv2d
    >>> state = CEConv2d(3, 3, 4, 8, 3).state_dict()
    >>> [(key, list(tensor.shape)) for key, tensor in migrate_state_dict(state).items()]
    [('weight', [8, 4, 3, 3, 3]), ('bias', [8])]
    """
    layers = layers_to_migrate(state, to, hidden)
    migrated: OrderedDict[str, Tensor] = OrderedDict(state)
    if hasattr(state, "_metadata"):
        vars(migrated)["_metadata"] = state._metadata  # module versions, which torch keeps beside the tensors
    made: dict[tuple[object, ...], Tensor] = {}
    for layer in layers:
        if layer.identity() not in made:
            weight = layer.moved(layer.effective_weight(), to)
            made[layer.identity()] = weight.clone(memory_format=torch.contiguous_format)
        migrated[f"{layer.name}weight"] = made[layer.identity()]
        migrated.pop(f"{layer.name}pointwise_weight", None)
    return migrated


def layers_to_migrate(
    state: Mapping[str, Tensor], to: Direction, hidden: Collection[str] | None = None
) -> list[LayerTensors]:
    """The layers of ``state``; raises as ``migrate_state_dict`` does where they are not to be migrated.

    Only color matrices need numbers; other tensors may be on the meta device.
    """
    if to not in ("conv3d", "ceconv"):
        raise StateDictError(f"to is 'conv3d' or 'ceconv', found {to!r}")
    layers = layers_in_state(state, hidden)
    if not layers:
        raise NothingToConvertError("the state dict has no color-equivariant layer")
    found: dict[str, list[str]] = {"conv3d": [], "ceconv": []}
    for layer in layers:
        if (form := layer.form()) is not None:
            found[form].append(layer.name.rstrip(".") or "the root")
    if all(found.values()):
        sides = "; ".join(f"{form}: {', '.join(names)}" for form, names in found.items())
        raise StateDictError(f"the state dict is in both forms at once ({sides})")
    if found[to]:
        raise NothingToConvertError(f"the state dict is in {to} form already: see {', '.join(found[to])}")
    return layers


def is_migrated(state: Mapping[str, Tensor]) -> bool:
    """Whether lifting layers are in the form ``conv3d`` already; without one the tensors do not tell."""
    names = [key.removesuffix("transformation_matrix") for key in state]
    return any(
        weight.dim() == 5 and weight.shape[2] == 3
        for name in names
        if f"{name}transformation_matrix" in state
        if (weight := state.get(f"{name}weight")) is not None
    )
