"""The layers in a state dict, without any module: by the names and shapes of their tensors.

lifting: ``transformation_matrix [3, 3]`` beside a 5-D weight. separable: ``pointwise_weight`` beside one.
hidden: a 5-D weight alone, as deep as the network has rotations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ceconv_convert.errors import StateDictError, shown
from ceconv_convert.kernel.circular import (
    from_circular,
    from_lifting_conv3d_weight,
    lifting_conv3d_weight,
    to_circular,
)
from ceconv_convert.kernel.color import color_order, rotations_of
from ceconv_convert.kernel.spec import Pair, factors_problem

Direction = Literal["conv3d", "ceconv"]
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """One layer's tensors; ``name`` ends in a dot, or is empty at the root."""

    name: str
    weight: Tensor
    kind: ClassVar[str]

    @property
    def factors(self) -> dict[str, Tensor]:
        """The tensors whose product is the effective weight, by their keys without ``name``."""
        return {"weight": self.weight}

    def effective_weight(self) -> Tensor:
        return self.weight

    def rotations(self) -> Pair | None:
        """N_in and N_out, where the tensors tell. A cyclic layer's are taken for equal."""
        depth = max(factor.shape[2] for factor in self.factors.values())
        return (depth, depth)

    def form(self) -> Direction | None:
        """The form that the tensors are in; None where they look the same in both."""
        return None

    def moved(self, tensor: Tensor, to: Direction) -> Tensor:
        """``tensor``, of the effective weight's shape, in the layout of the other form.

        A bijection that changes no number, so that it holds for an optimizer's averages as well.
        """
        return to_circular(tensor) if to == "conv3d" else from_circular(tensor)

    def identity(self) -> tuple[object, ...]:
        """Equal for layers whose migrated weights are one tensor."""
        return (type(self), *map(_place, self.factors.values()))

    def check(self) -> None:
        """Raise StateDictError where the weight has no numbers that can be moved."""
        for key, tensor in self.factors.items():
            if not _is_plain(tensor) or tensor.dtype not in _DTYPES or tensor.numel() == 0:
                name, found = f"{self.name}{key}", _described(tensor)
                raise StateDictError(f"{name} is no layer's weight that can be migrated: found {found}")


class HiddenTensors(LayerTensors):
    """``weight [O, I, N, kh, kw]``; as a Conv3d it is rolled along the rotations."""

    kind = "hidden"


@dataclass(frozen=True, eq=False)
class SeparableTensors(LayerTensors):
    """``weight [O, I or 1, 1, kh, kw]``, ``pointwise_weight [O, I, N, 1, 1]``; as a Conv3d their product."""

    pointwise_weight: Tensor
    kind = "separable"

    @property
    def factors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "pointwise_weight": self.pointwise_weight}

    def effective_weight(self) -> Tensor:
        return self.pointwise_weight * self.weight

    def form(self) -> Direction:
        return "ceconv"

    def check(self) -> None:
        super().check()
        problem = factors_problem(self.weight.shape, self.pointwise_weight.shape)
        if self.weight.device != self.pointwise_weight.device:
            problem = f"they are on {self.weight.device} and {self.pointwise_weight.device}"
        if problem is not None:
            keys = f"{self.name}weight and {self.name}pointwise_weight"
            raise StateDictError(f"{keys} do not fit: {problem}")


@dataclass(frozen=True, eq=False)
class LiftingTensors(LayerTensors):
    """``weight [O, I, 1, kh, kw]``; as a Conv3d ``[O, 1, 3, kh, kw]``, in the color order of the matrix."""

    matrix: Tensor
    kind = "lifting"

    def rotations(self) -> Pair | None:
        out_rotations = rotations_of(self.matrix)
        return None if out_rotations is None else (1, out_rotations)

    def form(self) -> Direction | None:
        if self.weight.shape[2] == 3:
            return "conv3d"
        return None if self.weight.shape[1] != 3 or color_order(self.matrix) == "same" else "ceconv"

    def moved(self, tensor: Tensor, to: Direction) -> Tensor:
        change = lifting_conv3d_weight if to == "conv3d" else from_lifting_conv3d_weight
        return change(tensor, color_order(self.matrix))

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), color_order(self.matrix))


def layers_in_state(state: Mapping[str, Tensor], hidden: Collection[str] | None = None) -> list[LayerTensors]:
    """The color-equivariant layers of ``state``, in its order.

    Args:
        state: a state dict, with any prefix.
        hidden: names of the hidden layers that are not separable, where the tensors do not tell; by default
            the 5-D weights as deep as the network has rotations.

    Raises:
        StateDictError: where 5-D weights may belong to a plain ``Conv3d`` as well; the message names them.
    """
    names = [key.removesuffix("weight") for key in state if key.split(".")[-1] == "weight"]
    layers = [layer for name in names if (layer := _layer_at(name, state)) is not None]
    alone = {layer.name: layer.weight.shape[2] for layer in layers if isinstance(layer, HiddenTensors)}
    if hidden is None:
        _check_depths(alone, [layer for layer in layers if layer.name not in alone])
    else:
        named = {f"{name}." if name else "" for name in hidden}
        missing = ", ".join(sorted(named - alone.keys()))
        if named - alone.keys():
            raise StateDictError(f"there are no hidden layers {missing} in the state dict")
        layers = [layer for layer in layers if layer.name not in alone or layer.name in named]
    for layer in layers:
        layer.check()
    return layers


def _check_depths(hidden: Mapping[str, int], others: Iterable[LayerTensors]) -> None:
    """Raise where a weight is not as deep as the others have rotations; without others, as the first one."""
    known = [rotations for layer in others if (rotations := layer.rotations()) is not None]
    depths = {out_rotations for _, out_rotations in known} or set(list(hidden.values())[:1])
    depths -= {1}
    strange = [f"{name}weight" for name, depth in hidden.items() if depth not in depths]
    if strange:
        raise StateDictError(
            f"it is ambiguous whether these are hidden layers or a plain Conv3d: {', '.join(strange)} (the "
            f"others have {sorted(depths) or 'no'} rotations); name the hidden layers with hidden=[…]"
        )


def _layer_at(name: str, state: Mapping[str, Tensor]) -> LayerTensors | None:
    """The layer whose weight is ``{name}weight``; None where that is any other module's."""
    weight, matrix, pointwise = (
        state.get(f"{name}{key}") for key in ("weight", "transformation_matrix", "pointwise_weight")
    )
    if matrix is not None and pointwise is not None:
        raise StateDictError(f"{name or 'the root'} has both a transformation_matrix and a pointwise_weight")
    if not isinstance(weight, Tensor) or weight.dim() != 5:
        if matrix is None and pointwise is None:
            return None
        raise StateDictError(
            f"{name}weight is no color-equivariant layer's, which have five axes: found {_described(weight)}"
        )
    if matrix is not None:
        if not has_numbers(matrix) or matrix.shape != (3, 3) or not matrix.is_floating_point():
            found = _described(matrix)
            raise StateDictError(f"{name}transformation_matrix is no color matrix: found {found}")
        if weight.shape[2] != 1 and weight.shape[1:3] != (1, 3):
            raise StateDictError(
                f"{name}weight is no lifting layer's, [O, I, 1, kh, kw] or as a Conv3d [O, 1, 3, kh, kw]: "
                f"found {_described(weight)}"
            )
        return LiftingTensors(name, weight, matrix)
    if pointwise is None:
        return HiddenTensors(name, weight)
    if not isinstance(pointwise, Tensor) or pointwise.dim() != 5 or pointwise.shape[3:] != (1, 1):
        found = _described(pointwise)
        raise StateDictError(f"{name}pointwise_weight is no rotation factor: found {found}")
    return SeparableTensors(name, weight, pointwise)


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be moved: it is strided, and not on the meta device."""
    return isinstance(tensor, Tensor) and _is_plain(tensor) and not tensor.is_meta


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same numbers in memory."""
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _described(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return shown(tensor)
    kind = str(tensor.dtype) if _is_plain(tensor) else f"a sparse, quantized or nested {tensor.dtype}"
    shape = "" if tensor.is_nested else f" of shape {list(tensor.shape)}"
    return f"{kind}{shape}{' without numbers' if tensor.is_meta else ''}"
