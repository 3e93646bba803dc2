"""Where the color-equivariant layers of a model are: found and probed once, then known by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ceconv_convert.conversion.read_module import LayerReading, Refusal, is_candidate, read_again, read_layer
from ceconv_convert.kernel.spec import KernelSpec


@dataclass(frozen=True, eq=False)
class FoundLayer:
    """A layer of a model: the module, its paths, and what was read of it."""

    module: nn.Module
    names: tuple[str, ...]
    reading: LayerReading | Refusal

    def in_copy(self, copy: nn.Module) -> tuple[nn.Module, KernelSpec]:
        """The same layer in a copy of the model, in any dtype, with its spec there; it is not probed again.

        Only for a layer that was not refused.
        """
        module = dict(copy.named_modules(remove_duplicate=False))[self.names[0]]
        return module, read_again(module).spec


def find_layers(model: nn.Module) -> tuple[FoundLayer, ...]:
    """Every candidate of ``model``, each module once, with all its names.

    What lies inside a candidate is part of it, and no layer of its own.
    """
    names: dict[nn.Module, list[str]] = {}
    skipped: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in skipped):
            continue
        if is_candidate(module):
            names.setdefault(module, []).append(name)
            skipped.append(f"{name}." if name else "")
    return tuple(FoundLayer(module, tuple(paths), _read(module, paths)) for module, paths in names.items())


def _read(module: nn.Module, names: list[str]) -> LayerReading | Refusal:
    if any(name.split(".")[-1] == "_orig_mod" for name in names):
        # The wrapper keeps the forward pass that it compiled: a replacement inside it would never run.
        return Refusal("torch.compile is wrapped around this layer: convert first, and compile afterwards")
    return read_layer(module)
