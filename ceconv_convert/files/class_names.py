"""Which classes a pickle may name, and stand-ins for them, whose constructors it cannot call.

Classes only, never functions: a class does nothing that its author did not write. Class names of the
published code, and those of earlier versions of this package, stand for our classes of the same name.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from ceconv_convert.architectures.registry import NETWORKS
from ceconv_convert.errors import FOREIGN_FAILURES, UnreadableInputError, first_line
from ceconv_convert.forms import conv2d, conv3d
from ceconv_convert.layers import ceconv2d, pooling

_PUBLISHED = {"ceconv", "ceconv2d", "pooling", "ceconv.ceconv2d", "ceconv.pooling"} | {
    file for network in NETWORKS for file in network.pickled_in
}
_OURS: dict[str, type] = {
    name: found
    for file in (ceconv2d, pooling, conv2d, conv3d)
    for name, found in vars(file).items()
    if isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == file.__name__
} | {cls.__name__: cls for network in NETWORKS for cls in network.classes}
_TORCHS = ("torch.nn.modules.", "torch.nn.parallel.data_parallel")

Made = tuple[nn.Module, type[nn.Module], str]  # a module, its real class, and the class's name in the file


def resolve(name: str) -> type | None:
    """The class that a pickled name stands for, or None where the user has to allow it.

    >>> resolve("ceconv.ceconv2d.CEConv2D").__name__, resolve("torch.nn.modules.linear.Linear").__name__
    ('CEConv2d', 'Linear')
    >>> resolve("os.system") is None
    True
    """
    module_name, _, attribute = name.rpartition(".")
    if name == "argparse.Namespace":  # hyper-parameters beside the weights: attributes, and no code
        return argparse.Namespace
    if module_name in _PUBLISHED or module_name.startswith("ceconv_convert."):
        return _OURS.get(attribute)
    found = getattr(sys.modules.get(module_name), attribute, None) if name.startswith(_TORCHS) else None
    is_layer = isinstance(found, type) and issubclass(found, nn.Module) and found is not nn.Module
    return found if is_layer else None


def allowed_by_user(names: Iterable[str]) -> dict[str, type]:
    """Import the classes that the user allows, by name; UnreadableInputError for what is no class."""
    found = {}
    for name in names:
        module_name, _, attribute = name.rpartition(".")
        if not module_name:
            raise UnreadableInputError(f"--allow takes package.module.Class, found {name!r}")
        cls = import_from(module_name, attribute, f"--allow {name}")
        if not isinstance(cls, type):
            reason = f"is a {type(cls).__name__}: only classes can be allowed, a function would run"
            raise UnreadableInputError(f"--allow {name} {reason}")
        found[name] = cls
    return found


def import_from(module_name: str, attribute: str, what: str) -> Any:
    """An attribute of a module of the user's, or an UnreadableInputError about ``what``.

    The working directory is searched last, as for ``python -m``: training code often sits there.
    """
    here = None
    try:
        here = str(Path.cwd())
        sys.path.append(here)
        return getattr(importlib.import_module(module_name), attribute)
    except FOREIGN_FAILURES as error:
        names = dir(sys.modules.get(module_name))
        meant = "".join(f"; did you mean {name}?" for name in get_close_matches(attribute, names, n=1))
        reason = f"{first_line(error)}{meant or f'; searched: what is installed, then {here}'}"
        raise UnreadableInputError(f"{what} cannot be imported: {reason}") from error
    finally:
        # This very entry, not an equal one, which ``python -m`` puts first.
        sys.path[:] = [entry for entry in sys.path if entry is not here]


def stand_in(cls: type, name: str, made: list[Made]) -> type:
    """A stand-in for a module class that a file calls ``name``; any other class is its own.

    pickle makes a module empty and then sets its state. A file that calls a constructor instead, with
    arguments of its own, can claim any amount of memory: no honest file does.
    """
    if not issubclass(cls, nn.Module):
        return cls

    def make(own: type[nn.Module], *_arguments: Any, **_options: Any) -> nn.Module:
        module = object.__new__(own)
        made.append((module, cls, name))
        return module

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise TypeError(f"it calls the constructor of {cls.__name__}, which no saved module does")

    return type(cls.__name__, (cls,), {"__new__": make, "__init__": refuse, "__module__": cls.__module__})


def restore_classes(made: Iterable[Made]) -> None:
    """Give each module that a stand-in made its real class, and remember a published class name beside it."""
    for module, cls, name in made:
        object.__setattr__(module, "__class__", cls)  # nn.Module's own setter reads its state
        if name.partition(".")[0] != cls.__module__.partition(".")[0]:
            vars(module)[ceconv2d.PICKLED_AS] = name
