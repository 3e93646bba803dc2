"""The layers in a state dict, without any module: by the names and shapes of their tensors.

lifting: ``transformation_matrix [3, 3]`` beside a 5-D weight. separable: ``pointwise_weight`` beside one.
hidden: a 5-D weight alone, as deep as the network has rotations.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ceconv_convert.errors import StateDictError, shown
from ceconv_convert.kernel import circular
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
        return reduce(torch.mul, self.factors.values())

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
        return circular.to_circular(tensor) if to == "conv3d" else circular.from_circular(tensor)

    def identity(self) -> tuple[object, ...]:
        """Equal for layers whose migrated weights are one tensor."""
        return (type(self), *map(place_of, self.factors.values()))

    def check(self) -> None:
        """Raise StateDictError where the weight has no numbers that can be moved."""
        for key, tensor in self.factors.items():
            fits = is_plain(tensor) and tensor.dtype in _DTYPES and tensor.numel() > 0
            _require(fits, self.name + key, tensor, "layer's weight that can be migrated")


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
        forth, back = circular.lifting_conv3d_weight, circular.from_lifting_conv3d_weight
        return (forth if to == "conv3d" else back)(tensor, color_order(self.matrix))

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), color_order(self.matrix))


def layers_in_state(state: Mapping[str, Tensor], hidden: Collection[str] | None = None) -> list[LayerTensors]:
    """The color-equivariant layers of ``state``, in its order, under any prefix.

    ``hidden`` names the hidden layers that are not separable, where the tensors do not tell; by default they
    are the 5-D weights as deep as the network has rotations.

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
        if named - alone.keys():
            missing = ", ".join(sorted(name.rstrip(".") for name in named - alone.keys()))
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
    keys = [f"{name}{key}" for key in ("weight", "transformation_matrix", "pointwise_weight")]
    weight, matrix, pointwise = map(state.get, keys)
    if matrix is not None and pointwise is not None:
        raise StateDictError(f"{name or 'the root'} has both a transformation_matrix and a pointwise_weight")
    if not isinstance(weight, Tensor) or weight.dim() != 5:
        found_layer = matrix is not None or pointwise is not None
        _require(not found_layer, keys[0], weight, "color-equivariant layer's, which have five axes")
        return None
    if matrix is not None:
        fits = has_numbers(matrix) and matrix.shape == (3, 3) and matrix.is_floating_point()
        _require(fits, keys[1], matrix, "color matrix")
        fits = weight.shape[2] == 1 or weight.shape[1:3] == (1, 3)
        _require(fits, keys[0], weight, "lifting layer's, [O, I, 1, kh, kw] or as a Conv3d [O, 1, 3, kh, kw]")
        return LiftingTensors(name, weight, matrix)
    if pointwise is None:
        return HiddenTensors(name, weight)
    fits = isinstance(pointwise, Tensor) and pointwise.dim() == 5 and pointwise.shape[3:] == (1, 1)
    _require(fits, keys[2], pointwise, "rotation factor")
    return SeparableTensors(name, weight, pointwise)


def _require(fits: bool, key: str, found: object, expected: str) -> None:
    if fits:
        return
    text = shown(found)
    if isinstance(found, Tensor):
        shape = f" of shape {list(found.shape)} on {found.device}"
        text = f"{found.dtype}{shape}" if is_plain(found) else f"a sparse, quantized or nested {found.dtype}"
    raise StateDictError(f"{key} is no {expected}: found {text}")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is strided, neither quantized nor nested; it may be on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be moved."""
    return isinstance(tensor, Tensor) and is_plain(tensor) and not tensor.is_meta


def place_of(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same numbers in memory."""
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)
