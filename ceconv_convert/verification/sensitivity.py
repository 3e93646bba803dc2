"""How far roundings inside a network may move what it gives.

An output may be far smaller than the features behind it: in the mean of a normalized image nearly everything
cancels. Roundings are relative to the features, and another order of summation gives others. In the float64
reference, every operator's result y is moved as a rounding that does not average out would move it:

    y + eps · max |y| · s, with random signs s, one for each image and channel

A normalization γ (x - μ) / σ is one operator, and rounds μ within: it is moved by eps · max |γ x / σ| too.

What the outputs move by is an error that the original could have had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.running import run_module
from ceconv_convert.verification.steps import StepKey, record

_NORMALIZATIONS = {
    torch.ops.aten.native_batch_norm.default: 1,
    torch.ops.aten.native_group_norm.default: 1,
    torch.ops.aten.native_layer_norm.default: 2,
}
"""Operators that may take statistics from their input, with the position of γ; else 1/σ is empty."""


class _Rounding(TorchDispatchMode):
    """Every new floating-point result with a batch is moved; views and changes in place are not."""

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


class Sensitivity:
    """How far outputs and features move; computed when somebody asks, which takes another reference pass.

    Args:
        reference: the network in float64.
        names: its steps.
        eps: one rounding of the network's dtype.
    """

    def __init__(self, reference: nn.Module, names: Collection[str], eps: float) -> None:
        self._reference = reference
        self.names = names
        self._eps = eps

    def outputs(self, x: Tensor, exact: Sequence[Tensor]) -> list[float]:
        """How far each output on ``x`` moves from what it is exactly."""
        with _Rounding(self._eps):
            moved = run_module(self._reference, x.double())
        return [distance(output, truth) for output, truth in zip(moved, exact, strict=False)]

    def steps(self, x: Tensor, exact: Mapping[StepKey, Tensor]) -> dict[StepKey, float]:
        """How far the features after each step on ``x`` move from what they are exactly."""
        with _Rounding(self._eps):
            steps = record(self._reference, x.double(), self.names)
        return {step.key: distance(step.output, exact[step.key]) for step in steps if step.key in exact}
