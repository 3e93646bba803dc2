"""Where the color-equivariant layers of a model are: found and probed once, then known by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ceconv_convert.conversion.read_module import Refusal, is_candidate, read_again, read_layer
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True, eq=False)
class FoundLayer:
    """A layer of a model: the module, its paths, and its spec or why it has none."""

    module: nn.Module
    names: tuple[str, ...]
    reading: KernelSpec | Refusal

    def in_copy(self, copy: nn.Module) -> tuple[nn.Module, KernelSpec]:
        """The same layer, which was not refused, in a copy of the model; it is not probed again."""
        module = dict(copy.named_modules(remove_duplicate=False))[self.names[0]]
        return module, read_again(module)


def find_layers(model: nn.Module) -> tuple[FoundLayer, ...]:
    """Every candidate of ``model``, each module once, with all its names.

    Modules inside a candidate are part of it, and no layers of their own.
    """
    names: dict[nn.Module, list[str]] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if not name.startswith(inside) and is_candidate(module):
            names.setdefault(module, []).append(name)
            inside += (f"{name}." if name else "",)
    return tuple(FoundLayer(module, tuple(paths), _read(module, paths)) for module, paths in names.items())


def _read(module: nn.Module, names: list[str]) -> KernelSpec | Refusal:
    if any(name.split(".")[-1] == "_orig_mod" for name in names):
        # The wrapper keeps the forward pass that it compiled: a replacement inside it would never run.
        return Refusal("torch.compile is wrapped around this layer: convert first, and compile afterwards")
    return read_layer(module)
