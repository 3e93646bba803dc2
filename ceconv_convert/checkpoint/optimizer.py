"""What an optimizer remembers, carried over to the migrated parameters.

An optimizer's state is kept by the position of its parameter. Where a layer's weight only moves, so do its
momentum and its averages. A separable layer has two factors before and one product after: what was remembered
of the factors says nothing of the product, and is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ceconv_convert.checkpoint.migrate import Direction, moved
from ceconv_convert.read.tensors import TensorLayer

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, eq=False)
class CarriedOver:
    """An optimizer's state after the migration; ``state`` is None where nothing could be carried over."""

    state: dict[str, Any] | None
    kept: int
    dropped: int

    def __str__(self) -> str:
        if self.state is None:
            return "the optimizer's state is dropped: its parameters cannot be told from the weights' names"
        text = f"the optimizer's state is carried over for {self.kept} parameters"
        return f"{text}, dropped for {self.dropped}, which became others" if self.dropped else text


def is_optimizer(found: object) -> bool:
    """Whether ``found`` is what ``torch.optim.Optimizer.state_dict`` gives."""
    return isinstance(found, Mapping) and isinstance(found.get("state"), Mapping) and "param_groups" in found


def carry_over(
    optimizer: Mapping[str, Any], state: Mapping[str, Tensor], layers: Iterable[TensorLayer], to: Direction
) -> CarriedOver:
    """The optimizer's state for the migrated parameters.

    Args:
        optimizer: an optimizer's state dict; it is not changed.
        state: the weights before the migration.
        layers: those of ``state``.
        to: the form that it is migrated to.
    """
    names = _names_of(optimizer, state)
    if names is None:
        return CarriedOver(None, 0, len(optimizer["state"]))
    moves = {f"{layer.name}weight": layer for layer in layers}
    factors = {name: layer for name, layer in moves.items() if layer.pointwise is not None}
    gone = {f"{layer.name}pointwise_weight" for layer in factors.values()}
    positions = {old: new for new, old in enumerate(i for i, name in enumerate(names) if name not in gone)}
    kept = {}
    for old, memory in optimizer["state"].items():
        name = names[old]
        carried = None if name in gone or name in factors else memory
        if carried is not None and name in moves:
            carried = _moved_memory(moves[name], memory, to)
        if carried is not None:
            kept[positions[old]] = carried
    groups = [
        {**group, "params": [positions[old] for old in group["params"] if old in positions]}
        for group in optimizer["param_groups"]
    ]
    carried_over = {**optimizer, "state": kept, "param_groups": groups}
    return CarriedOver(carried_over, len(kept), len(optimizer["state"]) - len(kept))


def _moved_memory(layer: TensorLayer, memory: Mapping[str, Any], to: Direction) -> dict[str, Any] | None:
    """Every tensor of the weight's shape moved as the weight is; None where one has another shape."""
    result: dict[str, Any] = {}
    for key, value in memory.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            if value.shape != layer.weight.shape:
                return None  # factored, or flattened: it has no layout to move
            value = moved(layer, value, to).contiguous()
        result[key] = value
    return result


def _names_of(optimizer: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str] | None:
    """The parameter at each position, in the first order that fits what is remembered of each; else None."""
    try:
        sizes = [len(group["params"]) for group in optimizer["param_groups"]]
        positions = [position for group in optimizer["param_groups"] for position in group["params"]]
        shapes = {
            position: {value.shape for value in memory.values() if isinstance(value, Tensor) and value.dim()}
            for position, memory in optimizer["state"].items()
        }
    except (LookupError, TypeError, AttributeError):
        return None
    if positions != list(range(len(positions))) or not shapes.keys() <= set(positions):
        return None
    for groups in _orders(state, len(sizes)):
        names = [name for group in groups for name in group]
        if [len(group) for group in groups] == sizes and all(
            not found or state[names[position]].shape in found for position, found in shapes.items()
        ):
            return names
    return None


def _orders(state: Mapping[str, Tensor], groups: int) -> Iterator[list[list[str]]]:
    """The ways in which scripts hand parameters to an optimizer, by name, group by group.

    All of them, or all but color matrices that are not trained; in one group, or those that decay (kernels)
    apart from those that do not (biases and norms).
    """
    names: dict[object, str] = {}
    for name, tensor in state.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if name.split(".")[-1] not in _BUFFERS:
            names.setdefault(place, name)  # a shared parameter is one
    everything = list(names.values())
    for given in (everything, [name for name in everything if not name.endswith("transformation_matrix")]):
        if groups == 1:
            yield [given]
        elif groups == 2:
            kernels = [name for name in given if state[name].dim() > 1]
            others = [name for name in given if state[name].dim() <= 1]
            yield from ([kernels, others], [others, kernels])
