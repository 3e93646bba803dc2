"""Where the color-equivariant layers of a model sit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ceconv_convert.conversion.read_module import LayerReading, Refusal, is_candidate, read_layer


@dataclass(frozen=True, eq=False)
class Site:
    """A candidate layer: where it sits, under how many names, and what was read of it."""

    module: nn.Module
    names: tuple[str, ...]
    reading: LayerReading | Refusal


def find_sites(model: nn.Module) -> list[Site]:
    """Every candidate of ``model``, each module once, with all its names.

    What lies inside a candidate is part of it, and no site of its own.
    """
    names: dict[nn.Module, list[str]] = {}
    skipped: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in skipped):
            continue
        if is_candidate(module):
            names.setdefault(module, []).append(name)
            skipped.append(f"{name}." if name else "")
    return [Site(module, tuple(paths), _read(module, paths)) for module, paths in names.items()]


def _read(module: nn.Module, names: list[str]) -> LayerReading | Refusal:
    if any(name.split(".")[-1] == "_orig_mod" for name in names):
        # The wrapper keeps the forward pass that it compiled: a replacement inside it would never run.
        return Refusal("torch.compile is wrapped around this layer: convert first, and compile afterwards")
    return read_layer(module)
