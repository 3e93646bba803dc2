"""How far rounding inside a network may move what it computes.

An output may be far smaller than the features behind it: in the mean of a normalized image nearly everything
cancels. Rounding is relative to the features, and another order of summation rounds otherwise. In the float64
reference, every operator's result y is moved as rounding that does not average out would move it:

    y + eps · max |y| · s, with random signs s, one for each image and channel

A normalization γ (x - μ) / σ is one operator, and rounds μ within: it is moved by eps · max |γ x / σ| too.

What the outputs move by is an error that the original could have had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ceconv_convert.verification.outputs import Outputs, distance, largest, run_module

_NORMALIZATIONS = {
    torch.ops.aten.native_batch_norm.default: 1,
    torch.ops.aten.native_group_norm.default: 1,
    torch.ops.aten.native_layer_norm.default: 2,
}
"""Operators that may take statistics from their input, with the position of γ; else 1/σ is empty."""


class Rounding(TorchDispatchMode):
    """While active, every new floating-point result with a batch is moved by ``eps`` of its largest value.

    Views and changes in place are not.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self._eps = eps
        self._generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return result
        if func in _NORMALIZATIONS:
            y, mean, reciprocal = result
            weight = args[_NORMALIZATIONS[func]]
            within = largest(args[0]) * largest(reciprocal) * (1.0 if weight is None else largest(weight))
            return self._moved(y, within), mean, reciprocal
        return tree_map_only(Tensor, self._moved, result)

    def _moved(self, y: Tensor, within: float = 0.0) -> Tensor:
        if not y.is_floating_point() or y.dim() < 2 or not y.numel():
            return y
        signs = torch.randint(0, 2, (*y.shape[:2], *[1] * (y.dim() - 2)), generator=self._generator) * 2 - 1
        return y + self._eps * (largest(y) + within) * signs.to(y.device, y.dtype)


def output_sensitivity(
    reference: Callable[[Tensor], object], x: Tensor, exact: Outputs, eps: float
) -> list[float]:
    """How far rounding by ``eps`` moves each output from ``exact``."""
    with Rounding(eps):
        moved = run_module(reference, x.double())
    return [distance(found, truth) for found, truth in zip(moved, exact, strict=False)]
