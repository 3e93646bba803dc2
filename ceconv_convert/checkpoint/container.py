"""What a training script left in a file: where the weights are, and how their keys read.

A container nests weights under a name (``state_dict``, ``model``, …), wraps their keys in prefixes
(``module.`` of data parallelism, ``_orig_mod.`` of compilation, ``model.`` of Lightning, in any order), or
names them as torchvision does.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from torch import Tensor, nn

from ceconv_convert.files.source import Source

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
_COUNTERS = ("n_averaged",)
"""What torch's AveragedModel keeps beside the averages."""
_MOST_PREFIXES = 16
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


def find_weights(found: object, nest: tuple[str, ...] = ()) -> Weights | nn.Module | None:
    """The weights, or the whole module, in what a file holds; None where there are none."""
    if isinstance(found, nn.Module):
        return found
    if not isinstance(found, Mapping) or len(nest) > _DEEPEST:
        return None
    if _is_state_dict(found):
        return Weights(found, nest)
    inner = (find_weights(found[name], (*nest, name)) for name in _NESTS if name in found)
    return next((weights for weights in inner if weights is not None), None)


def is_checkpoint(source: Source) -> bool:
    """Whether a file holds weights, and not a whole module."""
    return isinstance(find_weights(source.content), Weights)


def describe(content: object) -> str:
    """What a file holds, in words."""
    if isinstance(content, Mapping):
        keys = ", ".join(key if isinstance(key, str) else type(key).__name__ for key in islice(content, 20))
        return f"a dict with the keys {keys[:200]}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def find_copies(found: object, weights: Weights) -> list[Weights]:
    """``weights`` and every other state dict in a container with the same keys: averages of them, mostly."""
    wanted = without_prefix(weights.tensors).keys()
    return [
        other
        for other in _state_dicts(found, (), set())
        if other.nest == weights.nest or wanted <= without_prefix(other.tensors).keys()
    ]


def _state_dicts(found: object, nest: tuple[str, ...], seen: set[int]) -> Iterator[Weights]:
    if not isinstance(found, Mapping) or len(nest) > _DEEPEST:
        return
    if _is_state_dict(found):
        yield Weights(found, nest)
    elif id(found) not in seen:  # a container may hold the same thing many times over
        seen.add(id(found))
        for key, value in found.items():
            if isinstance(key, str):
                yield from _state_dicts(value, (*nest, key), seen)


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    )


def with_item(found: Mapping[str, Any], nest: tuple[str, ...], item: object) -> Mapping[str, Any]:
    """A container with another item at ``nest``; what is on the way there is copied, the rest shared."""
    if not nest:
        raise ValueError("a nest has at least one key")
    changed = dict(found) if type(found) is dict else copy.copy(found)
    inner = item if len(nest) == 1 else with_item(found[nest[0]], nest[1:], item)
    cast(dict[str, Any], changed)[nest[0]] = inner
    return changed


def common_prefix(keys: Collection[str]) -> str:
    """The wrappers' prefix that all keys have in common, ``""`` without.

    >>> common_prefix(["_orig_mod.module.fc.weight"])
    '_orig_mod.module.'
    """
    prefix = ""
    for _ in range(_MOST_PREFIXES):
        inner = next((p for p in _PREFIXES if all(key.startswith(prefix + p) for key in keys)), None)
        if inner is None:
            break
        prefix += inner
    return prefix


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors under keys without the wrappers' prefix."""
    own = own_keys(tensors)
    start = len(common_prefix(own))
    return {key[start:]: tensors[key] for key in own}


def own_keys(tensors: Mapping[str, Tensor]) -> list[str]:
    """The keys of the network, in order, without what a wrapper counts beside it."""
    return [key for key in tensors if key not in _COUNTERS]


def published_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the published networks' keys: without prefix, torchvision's names translated."""
    plain = without_prefix(tensors)
    if not any(key.startswith("layer1.") for key in plain):
        return plain
    translated = {_from_torchvision(key): tensor for key, tensor in plain.items()}
    return translated if len(translated) == len(plain) else plain  # it has names of its own


def _from_torchvision(key: str) -> str:
    parts = key.split(".")
    if parts[0].startswith("layer") and parts[0][5:].isdecimal():
        parts[:1] = ["layers", str(int(parts[0][5:]) - 1)]
    names = dict(_TORCHVISION)
    return ".".join(names.get(part, part) for part in parts)
