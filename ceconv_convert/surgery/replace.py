"""Swap modules inside a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """``model`` with modules replaced wherever they are registered; the new root, which may be a replacement.

    Works in place. A module in two places is replaced in both, by one.
    """
    if model in replacements:
        return replacements[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return model
