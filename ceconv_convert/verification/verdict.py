"""The verdict, and where its tolerance comes from.

An output is judged by its distance from the float64 referee, beside the original's own distance:

    error ≤ 4 · (the original's own error) + (eps + 16 · eps₃₂) · max |referee|

with eps of the model's dtype and eps₃₂ of the arithmetic: float32's, or the dtype's where that is finer. The
first term says: about as close to exact arithmetic as the original is. The second covers the original that
happens to be exact: sums are formed in float32 at least, and rounded to the dtype once. Errors are worst
absolute ones over all inputs. The original's own error has a bound too, or a wrong original would widen the
tolerance until anything passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

MULTIPLE = 4
"""A converted model may err this many times as much as the original does …"""
FLOOR = 16
"""… plus this many roundings of the arithmetic, and one of the dtype, of the largest output."""

_REFEREE = 64


def floor(dtype: torch.dtype, roundings: int = FLOOR, *, stored: int = 1) -> float:
    """``stored`` roundings of ``dtype`` and ``roundings`` of the arithmetic; 0 for integers and bools.

    In float64 the referee is no more exact than what it judges, and has its own roundings.

    >>> floor(torch.float32) / torch.finfo(torch.float32).eps, floor(torch.int64)
    (17.0, 0.0)
    """
    if not dtype.is_floating_point:
        return 0.0
    eps = torch.finfo(dtype).eps
    own = _REFEREE if dtype == torch.float64 else 0
    return stored * eps + (roundings + own) * min(eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Measure:
    """Distances from the referee.

    Attributes:
        error: the candidate's, worst absolute.
        original_error: the original's own.
        scale: largest absolute value of the referee's output.
        dtype: the model's; of an output of integers or bools, its own.
    """

    error: float
    original_error: float
    scale: float
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """The largest error that passes."""
        return MULTIPLE * self.original_error + floor(self.dtype) * self.scale

    @property
    def strain(self) -> float:
        """Error over tolerance: above 1 it fails."""
        return self.error / self.tolerance if self.tolerance else float(self.error > 0) * 2

    @property
    def problem(self) -> str | None:
        """What is wrong, or None."""
        if self.error <= self.tolerance:
            return None
        return f"its error {self.error:.1e} is above the tolerance {self.tolerance:.1e}"


def pool(measures: Iterable[Measure]) -> Measure:
    """The worst of each distance over several inputs, for one output."""
    found = list(measures)
    rows = [(measure.error, measure.original_error, measure.scale) for measure in found]
    error, original_error, scale = (max(column) for column in zip(*rows, strict=True))
    return Measure(error, original_error, scale, found[0].dtype)


@dataclass(frozen=True)
class Case:
    """One output on one input of a shape."""

    shape: tuple[int, ...]
    output: int
    measure: Measure


@dataclass(frozen=True)
class LayerCheck:
    """One converted layer on a random input of its own; without a measure where it could not be compared."""

    name: str
    measure: Measure | None
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether the layer is right."""
        return self.problem is None


@dataclass(frozen=True)
class Verdict:
    """Whether a converted network is the original, and how closely.

    Attributes:
        candidate: what was judged, in words.
        cases: one an input and output.
        layers: one a converted layer; empty where the candidate has no layers to look at.
        worst: of the output that comes closest to its tolerance, over all inputs.
        problem: why it failed; None where it passed.
    """

    candidate: str
    cases: tuple[Case, ...]
    layers: tuple[LayerCheck, ...]
    worst: Measure
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether the candidate computes the same as the original."""
        return self.problem is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return verdict_as_line(self)


def verdict_as_data(verdict: Verdict) -> dict[str, object]:
    """A verdict as plain data, for reports and records."""
    return {
        "candidate": verdict.candidate,
        "passed": verdict.passed,
        "problem": verdict.problem,
        "error": verdict.worst.error,
        "original_error": verdict.worst.original_error,
        "tolerance": verdict.worst.tolerance,
        "inputs": len({case.shape for case in verdict.cases}),
        "layers": len(verdict.layers),
    }


def verdict_as_line(*verdicts: Verdict) -> str:
    """One line: what was judged, how it came out, and by how much. The first failure speaks for all."""
    for verdict in verdicts:
        if not verdict.passed:
            return f"FAIL: {verdict.candidate}: {verdict.problem}"
    inputs = max(len({case.shape for case in verdict.cases}) for verdict in verdicts)
    layers = max(len(verdict.layers) for verdict in verdicts)
    worst = max((verdict.worst for verdict in verdicts), key=lambda measure: measure.strain)
    return (
        f"PASS: {' and '.join(verdict.candidate for verdict in verdicts)}: worst error {worst.error:.1e}, "
        f"the original's own {worst.original_error:.1e}, tolerance {worst.tolerance:.1e}, "
        f"on {inputs} inputs{f' and {layers} layers' if layers else ''}"
    )
