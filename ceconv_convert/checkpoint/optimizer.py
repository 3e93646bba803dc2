"""What an optimizer remembers of each parameter, by its position, moved with the migrated parameters.

A separable layer has two factors before and one product after: what was remembered of the factors says
nothing of the product, and is dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ceconv_convert.checkpoint.container import DROPPED
from ceconv_convert.conversion import read_state_dict as reading
from ceconv_convert.conversion.read_state_dict import Direction, LayerTensors, SeparableTensors

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
OPTIMIZER_KEYS = frozenset({"state", "param_groups"})
"""Of ``torch.optim.Optimizer.state_dict``; in a container, other keys may lie beside them."""


def carry_over(
    optimizer: Mapping[str, Any], state: Mapping[str, Tensor], layers: Sequence[LayerTensors], to: Direction
) -> tuple[dict[str, object], str]:
    """An optimizer's items for the parameters after migration from ``state``, and a line on them."""
    names = _parameter_names(optimizer["state"], optimizer["param_groups"], state)
    if names is None:
        reason = "its parameters cannot be told from the weights' names"
        return dict.fromkeys(OPTIMIZER_KEYS, DROPPED), f"the optimizer's state is dropped: {reason}"
    moves = {f"{layer.name}weight": layer for layer in layers}
    gone = {f"{layer.name}pointwise_weight" for layer in layers if isinstance(layer, SeparableTensors)}
    staying = [old for old, name in enumerate(names) if name not in gone]
    positions = {old: new for new, old in enumerate(staying)}
    kept = {}
    for old, memory in optimizer["state"].items():
        layer = moves.get(names[old])
        if old in positions and not isinstance(layer, SeparableTensors):
            moved = memory if layer is None else _moved_memory(layer, memory, to)
            if moved is not None:
                kept[positions[old]] = moved
    dropped = len(optimizer["state"]) - len(kept)
    note = f"the optimizer's state is carried over for {len(kept)} parameters"
    if dropped:
        note += f", dropped for {dropped}, which became others"
    if gone:
        layers_of = f"{len(gone)} separable layer{'s' * (len(gone) > 1)}"
        note += (
            f"; the factors of {layers_of} became their product, which trains along another path: "
            "to go on exactly, train the original with accelerate (docs/training.md)"
        )
    groups = [_moved_group(group, positions) for group in optimizer["param_groups"]]
    return {"state": kept, "param_groups": groups}, note


def _moved_group(group: Mapping[str, Any], positions: Mapping[int, int]) -> dict[str, Any]:
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
            if value.shape != layer.weight.shape or not reading.has_numbers(value):
                return None  # factored, flattened or sparse: it has no layout to move
            value = layer.moved(value, to).contiguous()
        elif not isinstance(value, (Tensor, int, float, str, type(None))):
            return None  # a history, in whatever layout
        result[key] = value
    return result


def _parameter_names(memories: Any, groups: Any, state: Mapping[str, Tensor]) -> list[str] | None:
    """The parameter at each position, in the first order that fits what is remembered of each; else None."""
    if not isinstance(memories, Mapping) or not isinstance(groups, (list, tuple)):
        return None
    if not all(isinstance(found, Mapping) for found in (*memories.values(), *groups)):
        return None
    params: list[Any] = [group.get("params") for group in groups]
    if not all(isinstance(found, (list, tuple)) for found in params):
        return None
    positions = [position for found in params for position in found]
    numbered = all(type(position) is int for position in (*positions, *memories))
    if not numbered or positions != list(range(len(positions))) or not memories.keys() <= set(positions):
        return None
    for order in _orders(state, len(params)):
        names = [name for group in order for name in group]
        if list(map(len, order)) == list(map(len, params)) and all(
            _fits(memory, state[names[position]]) for position, memory in memories.items()
        ):
            return names
    return None


def _fits(memory: Mapping[str, Any], parameter: Tensor) -> bool:
    """Whether a memory may be of a parameter: it has a tensor of the same shape, or none with axes."""
    tensors = [value for value in memory.values() if isinstance(value, Tensor) and value.dim()]
    numbers = [value for value in tensors if reading.has_numbers(value)]
    return not tensors or any(value.shape == parameter.shape for value in numbers)


def _orders(state: Mapping[str, Tensor], groups: int) -> Iterator[list[list[str]]]:
    """The ways in which scripts pass parameters to an optimizer, by name, group by group."""
    names: dict[object, str] = {}
    for name, tensor in state.items():
        if name.split(".")[-1] not in _BUFFERS:
            names.setdefault(reading.place_of(tensor), name)  # a shared parameter is one
    everything = list(names.values())
    # All, or all but fixed color matrices; in one group, or those that decay (kernels) apart from others.
    for chosen in (everything, [name for name in everything if not name.endswith("transformation_matrix")]):
        kernels = [name for name in chosen if state[name].dim() > 1]
        others = [name for name in chosen if state[name].dim() <= 1]
        yield from {1: [[chosen]], 2: [[kernels, others], [others, kernels]]}.get(groups, [])
