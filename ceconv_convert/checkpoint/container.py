"""What a training script left in a file: where the weights are, and how their keys read.

A container nests weights under a name (``state_dict``, ``model``, …), wraps their keys in prefixes
(``module.`` of data parallelism, ``_orig_mod.`` of compilation, ``model.`` of Lightning, in any order), or
names them as torchvision does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

_NESTS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "ema",
    "model_ema",
    "weights",
)
"""Where weights are found, the likeliest first."""
_DEEPEST = 4
"""Containers nest weights once or twice."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_TORCHVISION = (("downsample", "shortcut"), ("fc", "linear"))


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights found in a container.

    Attributes:
        tensors: the state dict, keys as in the file.
        nest: the keys that lead to it, from the outside.
    """

    tensors: Mapping[str, Tensor]
    nest: tuple[str, ...] = ()


def find_weights(found: object) -> Weights | nn.Module | None:
    """The weights, or the whole module, in what a file holds; None where there are none."""
    if isinstance(found, nn.Module):
        return found
    if not isinstance(found, Mapping):
        return None
    if found and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        return Weights(found)
    for name in _NESTS:
        inner = find_weights(found.get(name))
        if isinstance(inner, Weights):
            return Weights(inner.tensors, (name, *inner.nest))
        if inner is not None:
            return inner
    return None


def find_copies(found: object, weights: Weights) -> list[Weights]:
    """``weights`` and every other state dict in a container with the same keys: averages of them, mostly."""
    wanted = without_prefix(weights.tensors).keys()
    return [
        other
        for other in _state_dicts(found, ())
        if other.nest == weights.nest or wanted <= without_prefix(other.tensors).keys()
    ]


def _state_dicts(found: object, nest: tuple[str, ...]) -> Iterator[Weights]:
    if not isinstance(found, Mapping) or not found or not all(isinstance(key, str) for key in found):
        return
    if all(isinstance(value, Tensor) for value in found.values()):
        yield Weights(found, nest)
    elif len(nest) < _DEEPEST:
        for key, value in found.items():
            yield from _state_dicts(value, (*nest, key))


def with_item(found: Mapping[str, Any], nest: tuple[str, ...], item: object) -> Mapping[str, Any]:
    """A container with another item at ``nest``; what is on the way there is copied, the rest shared."""
    if not nest:
        raise ValueError("a nest has at least one key")
    changed = dict(found) if type(found) is dict else copy.copy(found)
    inner = item if len(nest) == 1 else with_item(found[nest[0]], nest[1:], item)
    cast(dict[str, Any], changed)[nest[0]] = inner
    return changed


def common_prefix(keys: Mapping[str, Tensor]) -> str:
    """The wrappers' prefix that all keys have in common, ``""`` without.

    >>> import torch
    >>> common_prefix({"_orig_mod.module.fc.weight": torch.ones(1)})
    '_orig_mod.module.'
    """
    prefix = ""
    while True:
        inner = next((p for p in _PREFIXES if all(key.startswith(prefix + p) for key in keys)), None)
        if inner is None:
            return prefix
        prefix += inner


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under keys without the wrappers' prefix."""
    start = len(common_prefix(tensors))
    return {key[start:]: tensor for key, tensor in tensors.items()}


def published_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the published networks' keys: without prefix, torchvision's names translated."""
    plain = without_prefix(tensors)
    if not any(key.startswith("layer1.") for key in plain):
        return plain
    return {_from_torchvision(key): tensor for key, tensor in plain.items()}


def _from_torchvision(key: str) -> str:
    parts = key.split(".")
    if parts[0].startswith("layer") and parts[0][5:].isdecimal():
        parts[:1] = ["layers", str(int(parts[0][5:]) - 1)]
    names = dict(_TORCHVISION)
    return ".".join(names.get(part, part) for part in parts)
