"""How far from the float64 reference a candidate may be.

An output is judged by its distance from the float64 reference, beside the original's own distance:

    error ≤ 4 · (the original's own error) + (eps + 16 · eps₃₂) · max |reference|

with eps of the model's dtype and eps₃₂ of the arithmetic: float32's, or the dtype's where that is finer. The
first term says: about as close to exact arithmetic as the original is. The second covers an original that
happens to be exact: sums are formed in float32 at least, and rounded to the dtype once. Where that is not
enough, the original's error may be as large as rounding inside it could have made it (``reference.py``).
The original's own error is bounded too, or a wrong original would widen the tolerance until anything passes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MULTIPLE = 4
"""Largest error, in multiples of the original's own …"""
ARITHMETIC_EPS = 16
"""… plus this many eps of the arithmetic, and one of the dtype, of the largest output."""
_PRODUCTS_EPS = 32
"""Of a single layer: eps of the arithmetic, of the sum of absolute products behind an output."""
_FLOAT64_EPS = 64
"""In float64 the reference is no more exact than what it judges: further eps of the arithmetic."""


def relative_tolerance(dtype: torch.dtype, arithmetic: int = ARITHMETIC_EPS, *, stored: int = 1) -> float:
    """``stored`` eps of ``dtype`` and ``arithmetic`` eps of the arithmetic; 0 for integers and bools.

    >>> relative_tolerance(torch.float32) / torch.finfo(torch.float32).eps, relative_tolerance(torch.int64)
    (17.0, 0.0)
    """
    if not dtype.is_floating_point:
        return 0.0
    eps = torch.finfo(dtype).eps
    own = _FLOAT64_EPS if dtype == torch.float64 else 0
    return stored * eps + (arithmetic + own) * min(eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Measure:
    """Worst absolute distances from the float64 reference, whose largest absolute value is ``scale``.

    ``dtype`` is the model's; of integers or bools, their own. Rounding is relative to ``scale``; in a single
    layer, to its largest ``sum_of_products`` of absolute values. Rounding inside a network may move an
    output by ``sensitivity``, where that was computed.
    """

    error: float
    original_error: float
    scale: float
    dtype: torch.dtype
    sum_of_products: float | None = None
    sensitivity: float = 0.0

    @property
    def tolerance(self) -> float:
        """The largest error that passes."""
        own = MULTIPLE * max(self.original_error, self.sensitivity)
        if self.sum_of_products is None:
            return own + relative_tolerance(self.dtype) * self.scale
        products = relative_tolerance(self.dtype, _PRODUCTS_EPS, stored=0) * self.sum_of_products
        return own + (relative_tolerance(self.dtype, 0) * self.scale + products)

    @property
    def relative_error(self) -> float:
        return self.error / self.scale if self.scale else float(self.error > 0)

    @property
    def error_over_tolerance(self) -> float:
        """Above 1 it fails."""
        return self.error / self.tolerance if self.tolerance else float(self.error > 0) * 2

    @property
    def problem(self) -> str | None:
        """Why it fails, or None."""
        if self.error <= self.tolerance:
            return None
        return f"its error {self.error:.1e} is above the tolerance {self.tolerance:.1e}"


def pool(measures: Iterable[Measure]) -> Measure:
    """The largest of each distance over several inputs, for one output."""
    found = list(measures)
    names = ("error", "original_error", "scale", "sensitivity")
    worst = {name: max(getattr(measure, name) for measure in found) for name in names}
    return Measure(dtype=found[0].dtype, **worst)


def compare_tensors(found: Tensor, original: Tensor, exact: Tensor, dtype: torch.dtype) -> Measure:
    """A candidate's output beside the original's, of a model of ``dtype``."""
    if original.dtype.is_floating_point:
        return Measure(distance(found, exact), distance(original, exact), largest(exact), dtype)
    # Which of two close scores is the larger may come out either way: what either network decides is right.
    error = torch.minimum(distances(found, exact), distances(found, original))
    return Measure(largest(error), 0.0, largest(exact), found.dtype)


def distances(found: Tensor, exact: Tensor) -> Tensor:
    """Absolute differences, element by element, in float64."""
    return (found.to("cpu", torch.float64) - exact.to("cpu", torch.float64)).abs()


def distance(found: Tensor, exact: Tensor) -> float:
    """Worst absolute difference, in float64; 0 for an empty tensor."""
    return largest(distances(found, exact))


def largest(exact: Tensor) -> float:
    """Largest absolute value; 0 for an empty tensor."""
    return float(exact.to(torch.float64).abs().max()) if exact.numel() else 0.0
