"""Copy models that ``copy.deepcopy`` alone refuses."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, ConversionError, first_line


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, which is not changed.

    Pruning and legacy weight norm leave on a module the result of their last computation: not a leaf of the
    graph, so that torch refuses to copy it. The copy gets its numbers; the next call computes it anew.

    Raises:
        ConversionError: where a part of it cannot be copied.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    memo: dict[int, object] = {id(tensor): tensor.detach().clone() for tensor in computed}
    try:
        return copy.deepcopy(model, memo)
    except FOREIGN_FAILURES as error:
        raise ConversionError(
            f"the model cannot be copied ({first_line(error)}): convert(model, inplace=True) needs no copy"
        ) from error
