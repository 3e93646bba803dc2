"""What an optimizer remembers, carried over to the migrated parameters.

An optimizer's state is kept by the position of its parameter. Where a layer's weight only moves, so do its
momentum and its averages. A separable layer has two factors before and one product after: what was remembered
of the factors says nothing of the product, and is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ceconv_convert.conversion.read_state_dict import Direction, LayerTensors, SeparableTensors, has_numbers

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


OWN_KEYS = frozenset({"state", "param_groups"})
"""What ``torch.optim.Optimizer.state_dict`` has."""


def is_optimizer(found: object) -> bool:
    """Whether ``found`` is an optimizer's state dict, well-formed or not, alone or beside other keys."""
    return isinstance(found, Mapping) and found.keys() >= OWN_KEYS


def carry_all_over(
    content: Mapping[str, Any], state: Mapping[str, Tensor], layers: Iterable[LayerTensors], to: Direction
) -> tuple[Mapping[str, Any], list[str]]:
    """A container with the state of every optimizer in it carried over, and a line on each.

    Args:
        content: it is not changed; what holds no optimizer is shared.
        state: the weights before the migration.
        layers: those of ``state``.
        to: the form that it is migrated to.
    """
    walk = _Walk(lambda optimizer: carry_over(optimizer, state, layers, to))
    found: Any = walk.changed(content, ())
    return found, walk.notes


_DROPPED = object()
_DEEPEST = 4


class _Walk:
    """Replaces optimizers in one go, so that no place shifts under another; dropped ones leave no trace."""

    def __init__(self, carry: Callable[[Mapping[str, Any]], CarriedOver]) -> None:
        self.notes: list[str] = []
        self._carry = carry
        self._done: dict[tuple[int, int], object] = {}  # a container may hold the same thing many times over

    def changed(self, found: object, nest: tuple[Any, ...]) -> object:
        key = (id(found), len(nest))
        if key not in self._done and len(nest) <= _DEEPEST:
            if isinstance(found, Mapping):
                self._done[key] = self._dict(found, nest)
            elif isinstance(found, (list, tuple)):
                self._done[key] = self._list(found, nest)
        return self._done.get(key, found)

    def _dict(self, found: Mapping[Any, Any], nest: tuple[Any, ...]) -> object:
        own = self._optimizer(found, nest) if is_optimizer(found) else {}
        if nest and own.keys() == found.keys() and all(value is _DROPPED for value in own.values()):
            return _DROPPED
        items = {
            key: own[key] if key in own else self.changed(value, (*nest, key)) for key, value in found.items()
        }
        if all(items[key] is value for key, value in found.items()):
            return found
        changed: Any = copy.copy(found)
        for key, value in items.items():
            if value is _DROPPED:
                del changed[key]
            else:
                changed[key] = value
        return changed

    def _list(self, found: list[Any] | tuple[Any, ...], nest: tuple[Any, ...]) -> object:
        items = [self.changed(value, (*nest, index)) for index, value in enumerate(found)]
        if all(item is value for item, value in zip(items, found, strict=True)):
            return found
        return type(found)(item for item in items if item is not _DROPPED)

    def _optimizer(self, found: Mapping[str, Any], nest: tuple[Any, ...]) -> dict[str, object]:
        carried = self._carry(found)
        self.notes.append(f"{'.'.join(map(str, nest)) or 'state and param_groups'}: {carried}")
        return {key: _DROPPED if carried.state is None else carried.state[key] for key in OWN_KEYS}


def carry_over(
    optimizer: Mapping[str, Any], state: Mapping[str, Tensor], layers: Iterable[LayerTensors], to: Direction
) -> CarriedOver:
    """The optimizer's state for the migrated parameters.

    Args:
        optimizer: an optimizer's state dict, which may have further keys; it is not changed.
        state: the weights before the migration.
        layers: those of ``state``.
        to: the form that it is migrated to.
    """
    names = _names_of(optimizer, state)
    if names is None:
        return CarriedOver(None, 0, 0)
    moves = {f"{layer.name}weight": layer for layer in layers}
    factors = {name: layer for name, layer in moves.items() if isinstance(layer, SeparableTensors)}
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
    groups = [_without_gone(group, positions) for group in optimizer["param_groups"]]
    carried_over = {**optimizer, "state": kept, "param_groups": groups}
    return CarriedOver(carried_over, len(kept), len(optimizer["state"]) - len(kept))


def _without_gone(group: Mapping[str, Any], positions: Mapping[int, int]) -> dict[str, Any]:
    """A group of parameters under their new positions; torch may keep their names beside them."""
    params, names = group["params"], group.get("param_names")
    changed = {**group, "params": [positions[old] for old in params if old in positions]}
    if isinstance(names, (list, tuple)) and len(names) == len(params):
        changed["param_names"] = [name for old, name in zip(params, names, strict=True) if old in positions]
    return changed


def _moved_memory(layer: LayerTensors, memory: Mapping[str, Any], to: Direction) -> dict[str, Any] | None:
    """Every tensor of the weight's shape moved as the weight is; None where there is anything else."""
    result: dict[str, Any] = {}
    for key, value in memory.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            if value.shape != layer.weight.shape or not has_numbers(value):
                return None  # factored, flattened or sparse: it has no layout to move
            value = layer.moved(value, to).contiguous()
        elif not isinstance(value, (Tensor, int, float, str, type(None))):
            return None  # a history, in whatever layout
        result[key] = value
    return result


def _is_well_formed(optimizer: Mapping[str, Any]) -> bool:
    """Whether it is what torch's optimizers write: memories and groups of parameters by position."""
    memories, groups = optimizer["state"], optimizer["param_groups"]
    if not isinstance(memories, Mapping) or not isinstance(groups, (list, tuple)):
        return False
    if not all(isinstance(memory, Mapping) for memory in memories.values()):
        return False
    listed = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    positions = [*memories]
    for params in listed:
        if not isinstance(params, (list, tuple)):
            return False
        positions += params
    return all(type(position) is int for position in positions)


def _names_of(optimizer: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str] | None:
    """The parameter at each position, in the first order that fits what is remembered of each; else None."""
    if not _is_well_formed(optimizer):
        return None
    sizes = [len(group["params"]) for group in optimizer["param_groups"]]
    positions = [position for group in optimizer["param_groups"] for position in group["params"]]
    shapes = {
        position: {
            value.shape if has_numbers(value) else None
            for value in memory.values()
            if isinstance(value, Tensor) and value.dim()
        }
        for position, memory in optimizer["state"].items()
    }
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
