"""Where the weights are in what a training script saved, and how their keys read.

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

from ceconv_convert.errors import StateDictError
from ceconv_convert.files.source import Source

_NESTS = (
    *("state_dict", "model_state_dict", "model", "net", "network"),
    *("module", "ema", "model_ema", "weights"),
)
"""Where weights are found, the likeliest first."""
_DEEPEST = 4
"""Containers nest weights once or twice."""
_COUNTERS = ("n_averaged",)
"""What torch's AveragedModel keeps beside the averages."""
_MOST_PREFIXES = 16
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_TORCHVISION = {"downsample": "shortcut", "fc": "linear"}


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights found in a container.

    Attributes:
        tensors: the state dict, keys as in the file.
        nest: the keys that lead to it, from the outside.
    """

    tensors: Mapping[str, Tensor]
    nest: tuple[str, ...] = ()

    def without_prefix(self) -> dict[str, Tensor]:
        """The network's tensors, under keys without the wrappers' prefix."""
        keys = self._keys()
        start = len(common_prefix(keys))
        return {key[start:]: self.tensors[key] for key in keys}

    def as_published(self) -> dict[str, Tensor]:
        """As ``without_prefix``, with torchvision's names translated to those of the published networks."""
        plain = self.without_prefix()
        if not any(key.startswith("layer1.") for key in plain):
            return plain
        translated = {_from_torchvision(key): tensor for key, tensor in plain.items()}
        return translated if len(translated) == len(plain) else plain  # it has names of its own

    def own_names(self, layers: Collection[str] | None) -> list[str] | None:
        """Layers by their names in this state dict, from those or from the network's.

        Raises:
            StateDictError: where it has no such layers.
        """
        if layers is None:
            return None
        names = {}
        for own, published in zip(self._keys(), self.as_published(), strict=True):
            if own.split(".")[-1] == "weight":
                layer = own.removesuffix("weight").rstrip(".")
                names[layer] = names[published.removesuffix("weight").rstrip(".")] = layer
        missing = sorted(set(layers) - names.keys())
        if missing:
            raise StateDictError(f"there are no hidden layers {', '.join(missing)} in the state dict")
        return [names[name] for name in layers]

    def _keys(self) -> list[str]:
        """The keys of the network, without what a wrapper counts beside it."""
        return [key for key in self.tensors if key not in _COUNTERS]


def find_weights(content: object) -> Weights | nn.Module | None:
    """The likeliest weights, or the whole module, in what a file holds; None where there are none."""
    return next(_contents(content, (), _NESTS, set()), None)


def find_copies(content: object, weights: Weights) -> list[Weights]:
    """``weights`` and every other state dict in a container with the same keys: averages of them, mostly."""
    wanted = weights.without_prefix().keys()
    return [
        found
        for found in _contents(content, (), None, set())
        if isinstance(found, Weights)
        if found.nest == weights.nest or wanted <= found.without_prefix().keys()
    ]


def _contents(
    found: object, nest: tuple[str, ...], names: Collection[str] | None, seen: set[int]
) -> Iterator[Weights | nn.Module]:
    """The state dicts and modules in a container, under ``names`` in their order, or under any."""
    if isinstance(found, nn.Module):
        yield found
    elif isinstance(found, Mapping) and len(nest) <= _DEEPEST:
        if found and all(isinstance(key, str) and isinstance(found[key], Tensor) for key in found):
            yield Weights(found, nest)
        elif id(found) not in seen:  # a container may hold the same thing many times over
            seen.add(id(found))
            for name in found if names is None else names:
                if isinstance(name, str) and name in found:
                    yield from _contents(found[name], (*nest, name), names, seen)


def is_checkpoint(source: Source) -> bool:
    """Whether a file holds weights, and not a whole module."""
    return isinstance(find_weights(source.content), Weights)


def describe(content: object) -> str:
    """What a file holds, in words."""
    if isinstance(content, Mapping):
        keys = ", ".join(key if isinstance(key, str) else type(key).__name__ for key in islice(content, 20))
        return f"a dict with the keys {keys[:200]}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def with_item(found: Mapping[str, Any], nest: tuple[str, ...], item: object) -> Mapping[str, Any]:
    """A container with another item at ``nest``, which is not empty; the rest is shared."""
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


def _from_torchvision(key: str) -> str:
    first, *rest = key.split(".")
    stage = first.removeprefix("layer")
    if stage != first and stage.isdecimal():
        first = f"layers.{int(stage) - 1}"
    return ".".join(_TORCHVISION.get(part, part) for part in (first, *rest))
