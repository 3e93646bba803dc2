"""Which classes a pickle may name.

Classes only, never functions: a class without code of the file's cannot do what its author did not write.
Published and seed class names map onto our own implementation.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from ceconv_convert import architectures, layers
from ceconv_convert.errors import FOREIGN_FAILURES, UnreadableInputError, first_line

_OUR_LAYERS: dict[str, type] = {
    "CEConv2d": layers.CEConv2d,
    "CEConv2D": layers.CEConv2d,
    "GroupMaxPool2d": layers.GroupMaxPool2d,
    "GroupCosetMaxPool": layers.GroupCosetMaxPool,
    "GroupCosetAvgPool": layers.GroupCosetAvgPool,
}
_PUBLISHED_MODULES = frozenset({"ceconv", "ceconv.ceconv2d", "ceconv.pooling", "ceconv2d", "pooling"})
_PUBLISHED_NETWORKS: dict[str, type] = {
    "models.resnet.ResNet": architectures.ResNet,
    "models.resnet.BasicBlock": architectures.BasicBlock,
    "models.resnet.Bottleneck": architectures.Bottleneck,
    "models.resnet_hybrid.HybridResNet": architectures.HybridResNet,
    "models.resnet_hybrid.BasicBlock": architectures.BasicBlock,
    "models.resnet_hybrid.Bottleneck": architectures.Bottleneck,
    "models.cnn.CECNN": architectures.CECNN,
}
_PLAIN_DATA: dict[str, type] = {"argparse.Namespace": argparse.Namespace}
"""What training scripts leave beside the weights: attributes in a bag, and no code."""

_OUR_PACKAGE = "ceconv_convert."
_OUR_ROOMS = tuple(f"{_OUR_PACKAGE}{room}" for room in ("layers", "forms", "architectures"))


def resolve(name: str) -> type | None:
    """The class that a pickled name stands for, where it is allowed without asking; else None.

    >>> resolve("ceconv.ceconv2d.CEConv2D").__name__, resolve("torch.nn.modules.linear.Linear").__name__
    ('CEConv2d', 'Linear')
    >>> resolve("os.system") is None
    True
    """
    known = _PUBLISHED_NETWORKS.get(name) or _PLAIN_DATA.get(name)
    if known is not None:
        return known
    module_name, _, attribute = name.rpartition(".")
    if module_name in _PUBLISHED_MODULES:
        return _OUR_LAYERS.get(attribute)
    if module_name.startswith(("torch.nn.modules.", "torch.nn.parallel.data_parallel")):
        found = getattr(sys.modules.get(module_name), attribute, None)
    elif module_name.startswith(_OUR_ROOMS):
        found = getattr(_ours(module_name), attribute, None)
    else:
        return None
    return found if _is_module_class(found) else None


def allowed_by_user(names: Iterable[str]) -> list[tuple[type, str]]:
    """Import the classes that the user allows, each with the name that pickles give it.

    Raises:
        UnreadableInputError: for a name that cannot be imported, or is no class.
    """
    found = []
    for name in names:
        module_name, _, attribute = name.rpartition(".")
        if not module_name:
            raise UnreadableInputError(f"--allow takes package.module.Class, found {name!r}")
        cls = import_from(module_name, attribute, f"--allow {name}")
        if not isinstance(cls, type):
            raise UnreadableInputError(
                f"--allow {name} is a {type(cls).__name__}: only classes can be allowed, "
                "a function would be run"
            )
        found.append((cls, name))
    return found


def import_from(module_name: str, attribute: str, what: str) -> object:
    """An attribute of a module of the user's.

    The working directory is searched last, as for ``python -m``: training code often sits there.

    Raises:
        UnreadableInputError: where it cannot be imported; ``what`` names it.
    """
    here = None
    try:
        here = str(Path.cwd())
        sys.path.append(here)
        found: object = getattr(importlib.import_module(module_name), attribute)
    except FOREIGN_FAILURES as error:
        raise UnreadableInputError(
            f"{what} cannot be imported: {first_line(error)}; run where that module is installed"
        ) from error
    finally:
        # The entry of this call alone, and not an equal one, which ``python -m`` puts first.
        sys.path[:] = [entry for entry in sys.path if entry is not here]
    return found


def _ours(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ImportError:
        return None


def _is_module_class(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module) and found is not torch.nn.Module
