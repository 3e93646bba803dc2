"""Is what came out of a file a module that can be walked?

A file's pickle sets a module's attributes to whatever it likes. Before anything relies on them, the skeleton
is checked: registries that hold what they say, no hooks, no method hidden behind an attribute, a tree without
cycles and of bounded size. What a network computes with is found out later, by running it.
"""

from __future__ import annotations

import torch
from torch import nn

from ceconv_convert.errors import UnreadableInputError, shown
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.spec import MOST_ROTATIONS, is_number

_REGISTRIES: tuple[tuple[str, type, str], ...] = (
    ("_parameters", nn.Parameter, "a parameter"),
    ("_buffers", torch.Tensor, "a tensor"),
    ("_modules", nn.Module, "a module"),
)
_CALLED = ("_forward_hooks", "_backward_hooks")
"""Hooks without which a module cannot be called; others have defaults."""
_HOOKS = frozenset(name for name in vars(nn.Module()) if "_hooks" in name)
_SETTINGS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("_is_full_backward_hook", (bool, type(None)), "a bool or None"),
    ("_compiled_call_impl", (type(None),), "None"),
    ("_version", (int,), "a number"),
)
"""What torch looks at in every module besides, where it is there."""
_DEEPEST = 100
_MOST_PATHS = 10_000
_MOST_REPEATED = 512
"""Paths to modules that have one already. Each is a call, whose features are kept; the file is no larger."""


def check_skeleton(model: nn.Module) -> None:
    """Raise UnreadableInputError where ``model`` cannot be walked, with the module's path."""
    counted: dict[nn.Module, int] = {}
    paths = _count_paths("", model, (), counted)
    if paths > min(_MOST_PATHS, len(counted) + _MOST_REPEATED):
        raise UnreadableInputError(
            f"there are too many paths to its {len(counted)} modules: at most {_MOST_PATHS} are walked, "
            f"{_MOST_REPEATED} of them to modules that sit in another place too"
        )


def _count_paths(
    name: str, module: nn.Module, ancestors: tuple[nn.Module, ...], counted: dict[nn.Module, int]
) -> int:
    """The number of paths to ``module`` and what it holds; a module in two places has two."""
    if module in ancestors:
        raise UnreadableInputError(f"module {name} contains itself")
    if len(ancestors) > _DEEPEST:
        raise UnreadableInputError(f"modules are nested more than {_DEEPEST} deep, at {name}")
    if module not in counted:
        problem = _problem(module)
        if problem is not None:
            raise UnreadableInputError(f"module {name or '(root)'} is damaged: {problem}")
        count = 1
        for child_name, child in module._modules.items():
            if child is not None:
                path = f"{name}.{child_name}" if name else child_name
                count += _count_paths(path, child, (*ancestors, module), counted)
        counted[module] = count
    return counted[module]


def _problem(module: nn.Module) -> str | None:
    attributes = vars(module)
    nameless = next((name for name in attributes if not isinstance(name, str)), None)
    if nameless is not None:
        return f"its attribute {nameless!r} has no name"
    for registry, kind, what in _REGISTRIES:
        members = attributes.get(registry)
        if not isinstance(members, dict):
            return f"it has no {registry}"
        for name, member in members.items():
            if not isinstance(name, str) or "." in name or not name:
                return f"{name!r} in {registry} is not a name"
            if member is not None and not isinstance(member, kind):
                return f"{name!r} in {registry} is {type(member).__name__}, not {what}"
    if not isinstance(attributes.get("training"), bool):
        return "it does not say whether it is in training mode"
    for hooks in sorted(_HOOKS & attributes.keys() | {*_CALLED}):
        if not isinstance(attributes.get(hooks), dict) or attributes[hooks]:
            return f"its {hooks} are not empty"
    for name, kinds, what in _SETTINGS:
        if name in attributes and not isinstance(attributes[name], kinds):
            return f"its {name} is {type(attributes[name]).__name__}, not {what}"
    unsaved = attributes.get("_non_persistent_buffers_set", set())
    if not isinstance(unsaved, set) or not all(isinstance(name, str) for name in unsaved):
        return "its _non_persistent_buffers_set is no set of names"
    for name in ("in_rotations", "out_rotations") if isinstance(module, TargetLayer) else ():
        count = attributes.get(name)
        if not is_number(count) or not 1 <= count <= MOST_ROTATIONS:
            return f"its {name} is {shown(count)}, not 1 to {MOST_ROTATIONS}"
    for name in attributes:
        if name.startswith("__") or callable(getattr(type(module), name, None)):
            return f"its attribute {name!r} hides a method"
    return None
