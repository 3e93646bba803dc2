"""Where the weights are in what a training script saved, and how their keys read.

A container nests weights under a name (``state_dict``, ``model``, …), wraps their keys in prefixes
(``module.`` of data parallelism, ``_orig_mod.`` of compilation, ``model.`` of Lightning, in any order), or
names them as torchvision does.
"""

import copy
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ceconv_convert.files.source import Source

_NESTS = (
    *("state_dict", "model_state_dict", "model", "net", "network"),
    *("module", "ema", "model_ema", "weights"),
)
"""Where weights are found, the likeliest first."""
_DEEPEST = 4  # containers nest weights once or twice
DROPPED = object()
"""Stands for an item that a container is to lose."""
_COUNTER = "n_averaged"  # what torch's AveragedModel keeps beside the averages
_WRAPPERS = re.compile(r"((module|_orig_mod|model|net|network)\.)*")
_TORCHVISION = {"downsample": "shortcut", "fc": "linear"}


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict in a container, keys as in the file, and the keys that lead to it from the outside."""

    tensors: Mapping[str, Tensor]
    nest: tuple[str, ...] = ()

    def without_prefix(self) -> dict[str, Tensor]:
        """The network's tensors, under keys without the wrappers' prefix."""
        keys = [key for key in self.tensors if key != _COUNTER]
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
        """Layers by their names in this state dict, whether they are named so or as in the network."""
        if layers is None:
            return None
        names = {}
        own_keys = (key for key in self.tensors if key != _COUNTER)
        for own, published in zip(own_keys, self.as_published(), strict=True):
            layer = own.removesuffix("weight").rstrip(".")
            names[layer] = names[published.removesuffix("weight").rstrip(".")] = layer
        return [names.get(name, name) for name in layers]


def find_weights(content: object, nest: tuple[str, ...] = ()) -> Weights | nn.Module | None:
    """The likeliest weights, or the whole module, in what a file holds; None where there are none."""
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, MutableMapping) or len(nest) > _DEEPEST:
        return None
    if is_state_dict(content):
        return Weights(content, nest)
    inner = (find_weights(content[name], (*nest, name)) for name in _NESTS if name in content)
    return next((found for found in inner if found is not None), None)


def is_state_dict(found: Mapping[Any, Any]) -> bool:
    """Whether a dict has tensors by name, and nothing else."""
    return bool(found) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())


def is_checkpoint(source: Source) -> bool:
    """Whether a file holds weights, and not a whole module."""
    return isinstance(find_weights(source.content), Weights)


def describe(content: object) -> str:
    """What a file holds, in words."""
    if isinstance(content, Mapping):
        keys = ", ".join(key if isinstance(key, str) else type(key).__name__ for key in islice(content, 20))
        return f"a dict with the keys {keys[:200]}" if content else "an empty dict"
    return "a whole module" if isinstance(content, nn.Module) else f"a {type(content).__name__}"


def replace_items(
    content: object, change: Callable[[Mapping[Any, Any], tuple[Any, ...]], Mapping[Any, object]]
) -> Any:
    """A copy of a container with other items, which may be ``DROPPED``; its tensors are shared.

    ``change`` is called with each dict in it and the keys that lead there, and returns the items to replace.
    """
    done: dict[tuple[int, int], Any] = {}  # a container may hold the same thing many times over

    def changed(found: Any, nest: tuple[Any, ...]) -> object:
        is_dict = isinstance(found, MutableMapping)
        if len(nest) > _DEEPEST or not (is_dict or type(found) in (list, tuple)):
            return found
        place = (id(found), len(nest))
        if place not in done:
            own = change(found, nest) if is_dict else {}
            pairs = found.items() if is_dict else enumerate(found)
            items = {key: own[key] if key in own else changed(value, (*nest, key)) for key, value in pairs}
            kept = {key: item for key, item in items.items() if item is not DROPPED}
            if is_dict:
                done[place] = copy.copy(found)
                done[place].clear()
                done[place].update(kept)
            else:
                done[place] = type(found)(kept.values())
            if own and nest and not kept:
                done[place] = DROPPED
        return done[place]

    return changed(content, ())


def common_prefix(keys: Iterable[str]) -> str:
    """The wrappers' prefix that all keys have in common, ``""`` without.

    >>> common_prefix(["_orig_mod.module.fc.weight"])
    '_orig_mod.module.'
    """
    found = _WRAPPERS.match(os.path.commonprefix([*keys]))  # noqa: RUF071 (of characters, not of paths)
    return found[0] if found else ""


def _from_torchvision(key: str) -> str:
    key = re.sub(r"^layer([1-9])\b", lambda stage: f"layers.{int(stage[1]) - 1}", key)
    return ".".join(_TORCHVISION.get(part, part) for part in key.split("."))
