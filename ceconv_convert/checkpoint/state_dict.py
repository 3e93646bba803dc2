"""State dict → state dict, without any module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from ceconv_convert.conversion.read_state_dict import TensorLayer, layers_in_state
from ceconv_convert.errors import NothingToConvertError, StateDictError
from ceconv_convert.kernel.circular import (
    from_circular,
    from_lifting_conv3d_weight,
    lifting_conv3d_weight,
    to_circular,
)
from ceconv_convert.kernel.color import color_order

Direction = Literal["conv3d", "ceconv"]
_DIMENSIONS = 5
"""Of every color-equivariant weight, and of a Conv3d's."""


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
        NothingToConvertError: where it has no layers, or is in the form asked for already.

    >>> from ceconv_convert.layers import CEConv2d
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
        order = None if layer.matrix is None else color_order(layer.matrix)
        key = (_identity(layer.weight), _identity(layer.pointwise), order)
        if key not in made:
            made[key] = moved(layer, effective_weight(layer), to).clone(memory_format=torch.contiguous_format)
        migrated[f"{layer.name}weight"] = made[key]
        migrated.pop(f"{layer.name}pointwise_weight", None)
    return migrated


def layers_to_migrate(
    state: Mapping[str, Tensor], to: Direction, hidden: Collection[str] | None = None
) -> list[TensorLayer]:
    """The layers of ``state``, which are not in the form asked for.

    Only the numbers of color matrices are looked at; other tensors may be on the meta device.

    Raises:
        StateDictError, NothingToConvertError: as ``migrate_state_dict`` does.
    """
    if to not in ("conv3d", "ceconv"):
        raise StateDictError(f"to is 'conv3d' or 'ceconv', found {to!r}")
    layers = layers_in_state(state, hidden)
    _check_direction(layers, to)
    return layers


def effective_weight(layer: TensorLayer) -> Tensor:
    """The weight, with the factors of a separable layer multiplied."""
    return layer.weight if layer.pointwise is None else layer.pointwise * layer.weight


def moved(layer: TensorLayer, tensor: Tensor, to: Direction) -> Tensor:
    """``tensor``, of the shape of the layer's effective weight, as it is laid out in the other form.

    A bijection that moves numbers and changes none: what an optimizer remembers of each number goes along.
    """
    if layer.matrix is None:
        return to_circular(tensor) if to == "conv3d" else from_circular(tensor)
    order = color_order(layer.matrix)
    if to == "conv3d":
        return lifting_conv3d_weight(tensor, order)
    return from_lifting_conv3d_weight(tensor, order)


def is_migrated(state: Mapping[str, Tensor]) -> bool:
    """Whether lifting layers are in the form ``conv3d`` already; without one the tensors do not tell."""
    lifting = [
        TensorLayer(key.removesuffix("weight"), "lifting", weight, matrix=matrix)
        for key, weight in state.items()
        if key.split(".")[-1] == "weight"
        and weight.dim() == _DIMENSIONS
        and (matrix := state.get(f"{key.removesuffix('weight')}transformation_matrix")) is not None
        and matrix.shape == (3, 3)
        and matrix.is_floating_point()
    ]
    return any(_form(layer) == "conv3d" for layer in lifting)


def _check_direction(layers: list[TensorLayer], to: Direction) -> None:
    if not layers:
        raise NothingToConvertError("the state dict has no color-equivariant layer")
    found: dict[str, list[str]] = {"conv3d": [], "ceconv": []}
    for layer in layers:
        form = _form(layer)
        if form is not None:
            found[form].append(layer.name.rstrip(".") or "the root")
    if all(found.values()):
        sides = "; ".join(f"{form}: {', '.join(names)}" for form, names in found.items())
        raise StateDictError(f"the state dict is in both forms at once ({sides})")
    if found[to]:
        raise NothingToConvertError(f"the state dict is in {to} form already: see {', '.join(found[to])}")


def _form(layer: TensorLayer) -> Direction | None:
    """The form that a layer's tensors are in; None where they look the same in both."""
    if layer.pointwise is not None:
        return "ceconv"
    if layer.matrix is None or (layer.weight.shape[1] != 3 and layer.weight.shape[2] == 1):
        return None
    if layer.weight.shape[2] == 3:
        return "conv3d"
    return None if color_order(layer.matrix) == "same" else "ceconv"


def _identity(tensor: Tensor | None) -> object:
    if tensor is None:
        return None
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)
