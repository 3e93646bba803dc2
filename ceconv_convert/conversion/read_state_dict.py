"""The layers in a state dict, without any module: by the names and shapes of their tensors.

lifting: ``transformation_matrix [3, 3]`` beside a 5-D weight. separable: ``pointwise_weight`` beside one.
hidden: a 5-D weight alone, as deep as the network has rotations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ceconv_convert.errors import StateDictError, shown
from ceconv_convert.kernel.color import rotations_of
from ceconv_convert.kernel.spec import factors_problem

_DIMENSIONS = 5
"""Of every color-equivariant weight, and of a Conv3d's."""

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

Kind = Literal["lifting", "hidden", "separable"]


@dataclass(frozen=True, eq=False)
class TensorLayer:
    """One layer's tensors: ``name`` ends in a dot, or is empty at the root."""

    name: str
    kind: Kind
    weight: Tensor
    matrix: Tensor | None = None
    pointwise: Tensor | None = None


def layers_in_state(state: Mapping[str, Tensor], hidden: Collection[str] | None = None) -> list[TensorLayer]:
    """The color-equivariant layers of ``state``, in its order.

    Args:
        state: a state dict, with any prefix.
        hidden: names of the hidden layers that are not separable, where the tensors do not tell; by default
            the 5-D weights as deep as the network has rotations.

    Raises:
        StateDictError: where 5-D weights may belong to a plain ``Conv3d`` as well; the message names them.
    """
    layers = [
        layer
        for key in state
        if key == "weight" or key.endswith(".weight")
        if (layer := _layer(key.removesuffix("weight"), state)) is not None
    ]
    plain = [layer for layer in layers if layer.kind == "hidden"]
    if hidden is not None:
        named = {f"{name}." if name else "" for name in hidden}
        missing = sorted(named - {layer.name for layer in plain})
        if missing:
            raise StateDictError(f"there are no hidden layers {', '.join(missing)} in the state dict")
        return _checked(layer for layer in layers if layer.kind != "hidden" or layer.name in named)
    depths = _rotations(layers)
    strange = [f"{layer.name}weight" for layer in plain if layer.weight.shape[2] not in depths]
    if strange:
        raise StateDictError(
            f"it is ambiguous whether these are hidden layers or a plain Conv3d: {', '.join(strange)} "
            f"(the others have {sorted(depths) or 'no'} rotations); name the hidden layers with hidden=[…]"
        )
    return _checked(layers)


def _checked(layers: Iterable[TensorLayer]) -> list[TensorLayer]:
    """The layers, whose tensors have numbers to move, or would have them on another device."""
    found = list(layers)
    for layer in found:
        _check_numbers(f"{layer.name}weight", layer.weight)
        if layer.pointwise is not None:
            _check_numbers(f"{layer.name}pointwise_weight", layer.pointwise)
            _check_factors(layer, layer.pointwise)
    return found


def _check_numbers(key: str, tensor: Tensor) -> None:
    if not _is_plain(tensor) or tensor.dtype not in _DTYPES or tensor.numel() == 0:
        raise StateDictError(f"{key} is no layer's weight that can be migrated: found {_described(tensor)}")


def _check_factors(layer: TensorLayer, pointwise: Tensor) -> None:
    problem = factors_problem(layer.weight.shape, pointwise.shape)
    if layer.weight.device != pointwise.device:
        problem = f"they are on {layer.weight.device} and {pointwise.device}"
    if problem is not None:
        raise StateDictError(f"{layer.name}weight and {layer.name}pointwise_weight do not fit: {problem}")


def _rotations(layers: list[TensorLayer]) -> set[int]:
    """The rotations that separable and lifting layers show; without any, those of the first hidden layer."""
    depths = {layer.pointwise.shape[2] for layer in layers if layer.pointwise is not None}
    turns = {rotations_of(layer.matrix) for layer in layers if layer.matrix is not None}
    depths |= {rotations for rotations in turns if rotations is not None}
    if not depths:
        depths = set([layer.weight.shape[2] for layer in layers if layer.kind == "hidden"][:1])
    return depths - {1}


def _layer(name: str, state: Mapping[str, Tensor]) -> TensorLayer | None:
    """The layer whose weight is ``{name}weight``; None where that is any other module's."""
    weight = state[f"{name}weight"]
    matrix = _tensor(state, f"{name}transformation_matrix")
    pointwise = _tensor(state, f"{name}pointwise_weight")
    if matrix is not None and pointwise is not None:
        raise StateDictError(f"{name or 'the root'} has both a transformation_matrix and a pointwise_weight")
    if not isinstance(weight, Tensor) or weight.dim() != _DIMENSIONS:
        if matrix is None and pointwise is None:
            return None
        found = _described(weight) if isinstance(weight, Tensor) else shown(weight)
        raise StateDictError(
            f"{name}weight is no color-equivariant layer's, which have five axes: found {found}"
        )
    if matrix is not None:
        if not has_numbers(matrix) or matrix.shape != (3, 3) or not matrix.is_floating_point():
            raise StateDictError(
                f"{name}transformation_matrix is no color matrix: found {_described(matrix)}"
            )
        if weight.shape[2] != 1 and weight.shape[1:3] != (1, 3):
            raise StateDictError(
                f"{name}weight is no lifting layer's, [O, I, 1, kh, kw] or as a Conv3d [O, 1, 3, kh, kw]: "
                f"found {_described(weight)}"
            )
        return TensorLayer(name, "lifting", weight, matrix=matrix)
    if pointwise is not None:
        if pointwise.dim() != _DIMENSIONS or pointwise.shape[3:] != (1, 1):
            raise StateDictError(
                f"{name}pointwise_weight is no rotation factor: found {_described(pointwise)}"
            )
        return TensorLayer(name, "separable", weight, pointwise=pointwise)
    return TensorLayer(name, "hidden", weight)


def _tensor(state: Mapping[str, Tensor], key: str) -> Tensor | None:
    found = state.get(key)
    if found is not None and not isinstance(found, Tensor):
        raise StateDictError(f"{key} is no tensor, found {shown(found)}")
    return found


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be moved about: it is strided, and not on the meta device."""
    return _is_plain(tensor) and not tensor.is_meta


def _described(tensor: Tensor) -> str:
    kind = str(tensor.dtype) if _is_plain(tensor) else f"a sparse, quantized or nested {tensor.dtype}"
    shape = "" if tensor.is_nested else f" of shape {list(tensor.shape)}"
    return f"{kind}{shape}{' without numbers' if tensor.is_meta else ''}"
