"""The layers in a state dict, without any module: by the names and shapes of their tensors.

lifting: ``transformation_matrix [3, 3]`` beside a 5-D weight. separable: ``pointwise_weight`` beside one.
hidden: a 5-D weight alone, as deep as the network has rotations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ceconv_convert.errors import StateDictError
from ceconv_convert.kernel.color import rotations_of

Kind = Literal["lifting", "hidden", "separable"]


@dataclass(frozen=True, eq=False)
class TensorLayer:
    """One layer's tensors: ``name`` ends in a dot, or is empty at the root."""

    name: str
    kind: Kind
    weight: Tensor
    matrix: Tensor | None = None
    pointwise: Tensor | None = None


def find_layers(state: Mapping[str, Tensor], hidden: Collection[str] | None = None) -> list[TensorLayer]:
    """The color-equivariant layers of ``state``, in its order.

    Args:
        state: a state dict, with any prefix.
        hidden: names of the hidden layers that are not separable, where the tensors do not tell; by default
            the 5-D weights as deep as the network has rotations.

    Raises:
        StateDictError: where 5-D weights may belong to a plain ``Conv3d`` as well; the message names them.
    """
    layers = [
        _layer(key.removesuffix("weight"), tensor, state)
        for key, tensor in state.items()
        if (key == "weight" or key.endswith(".weight")) and tensor.dim() == 5
    ]
    plain = [layer for layer in layers if layer.kind == "hidden"]
    if hidden is not None:
        named = {f"{name}." if name else "" for name in hidden}
        missing = sorted(named - {layer.name for layer in plain})
        if missing:
            raise StateDictError(f"there are no hidden layers {', '.join(missing)} in the state dict")
        return [layer for layer in layers if layer.kind != "hidden" or layer.name in named]
    depths = _rotations(layers)
    strange = [f"{layer.name}weight" for layer in plain if layer.weight.shape[2] not in depths]
    if strange:
        raise StateDictError(
            f"it is ambiguous whether these are hidden layers or a plain Conv3d: {', '.join(strange)} "
            f"(the others have {sorted(depths) or 'no'} rotations); name the hidden layers with hidden=[…]"
        )
    return layers


def _rotations(layers: list[TensorLayer]) -> set[int]:
    """The rotations that separable and lifting layers show; without any, those of the first hidden layer."""
    depths = {layer.pointwise.shape[2] for layer in layers if layer.pointwise is not None}
    turns = {rotations_of(layer.matrix) for layer in layers if layer.matrix is not None}
    depths |= {rotations for rotations in turns if rotations is not None}
    if not depths:
        depths = set([layer.weight.shape[2] for layer in layers if layer.kind == "hidden"][:1])
    return depths - {1}


def _layer(name: str, weight: Tensor, state: Mapping[str, Tensor]) -> TensorLayer:
    matrix = state.get(f"{name}transformation_matrix")
    pointwise = state.get(f"{name}pointwise_weight")
    if matrix is not None and pointwise is not None:
        raise StateDictError(f"{name or 'the root'} has both a transformation_matrix and a pointwise_weight")
    if matrix is not None and (matrix.shape != (3, 3) or not matrix.is_floating_point()):
        raise StateDictError(f"{name}transformation_matrix is no color matrix: found {_described(matrix)}")
    if pointwise is not None and (pointwise.dim() != weight.dim() or pointwise.shape[3:] != (1, 1)):
        raise StateDictError(f"{name}pointwise_weight is no rotation factor: found {_described(pointwise)}")
    if matrix is not None:
        return TensorLayer(name, "lifting", weight, matrix=matrix)
    if pointwise is not None:
        return TensorLayer(name, "separable", weight, pointwise=pointwise)
    return TensorLayer(name, "hidden", weight)


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}"
