"""Checks on what came out of a file, before anything relies on it.

A pickle can declare tensors of any shape as views of a few bytes, and set a module's attributes to anything.
"""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.read_state_dict import is_plain, place_of
from ceconv_convert.errors import UnreadableInputError, shown
from ceconv_convert.files.safetensors_io import is_safetensors
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.kernel.spec import MOST_ROTATIONS, is_number

_OVERLAP = 2  # largest total of all tensors, in sizes of their file: tied ones share their numbers
_REGISTRIES: dict[str, type] = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
_STATE: dict[str, tuple[type, ...]] = {
    **{name: (dict,) for name in vars(nn.Module()) if name in _REGISTRIES or "_hooks" in name},
    "training": (bool,),
    "_non_persistent_buffers_set": (set,),
    "_is_full_backward_hook": (bool, NoneType),
    "_compiled_call_impl": (NoneType,),
    "_version": (int, NoneType),
}
"""Types of what torch keeps in every module."""
_REQUIRED = {*_REGISTRIES, "training", "_forward_hooks", "_backward_hooks"}
"""Without them a module cannot be called; the others have defaults."""
_DEEPEST = 100
_MOST_PATHS = 10_000
_MOST_REPEATED = 512  # paths to modules that have one already. Each is a call whose features are kept


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UnreadableInputError where ``tensors`` are larger than their file, or not plain numbers."""
    if is_safetensors(path):
        return  # the format has no views
    size = path.stat().st_size
    claimed: dict[object, int] = {}
    for key, tensor in tensors.items():
        if not is_plain(tensor):
            raise UnreadableInputError(f"{key} is sparse, quantized or nested: only plain tensors are read")
        if torch.nn.parameter.is_lazy(tensor):
            continue
        if tensor.is_meta:
            raise UnreadableInputError(f"{key} has no numbers: it was saved from the meta device")
        if tensor.nbytes > size:
            raise UnreadableInputError(f"{key} claims {tensor.numel()} numbers, more than the file holds")
        claimed[place_of(tensor)] = tensor.nbytes
    total = sum(claimed.values())
    if total > _OVERLAP * size:
        raise UnreadableInputError(f"its tensors claim {total} bytes together, and the file has {size}")


def check_skeleton(model: nn.Module) -> None:
    """Raise UnreadableInputError where ``model`` is no bounded tree of modules as torch saves them."""
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
    """How it differs from what torch saves, or None."""
    attributes = vars(module)
    for name in attributes:
        if not isinstance(name, str) or name.startswith("__") or callable(getattr(type(module), name, None)):
            return f"its attribute {name!r} is no name, or hides a method"
    for name, kinds in _STATE.items():
        found = attributes.get(name)
        if (name in attributes or name in _REQUIRED) and not isinstance(found, kinds):
            return f"its {name} is {type(found).__name__}: expected {kinds[0].__name__}"
        if "_hooks" in name and found:
            return f"its {name} are not empty"
    if not all(isinstance(name, str) for name in attributes.get("_non_persistent_buffers_set", ())):
        return "its _non_persistent_buffers_set holds more than names"
    for registry, kind in _REGISTRIES.items():
        for name, member in attributes[registry].items():
            is_name = isinstance(name, str) and name and "." not in name
            if not is_name or not isinstance(member, (kind, NoneType)):
                what = f"{type(member).__name__} {name!r}"
                return f"its {registry} hold the {what}: expected {kind.__name__}, under a name without dots"
    for name in ("in_rotations", "out_rotations") if isinstance(module, TargetLayer) else ():
        count = attributes.get(name)
        if not is_number(count) or not 1 <= count <= MOST_ROTATIONS:
            return f"its {name} is {shown(count)}: expected 1 to {MOST_ROTATIONS}"
    return None
