"""Copy models that ``copy.deepcopy`` alone refuses."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, which is not changed.

    Pruning and legacy weight norm leave on a module the result of their last computation: not a leaf of the
    graph, so that torch refuses to copy it. The copy gets its numbers; the next call computes it anew.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    memo: dict[int, object] = {id(tensor): tensor.detach().clone() for tensor in computed}
    return copy.deepcopy(model, memo)
