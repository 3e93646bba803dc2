"""The verdict, and where its tolerance comes from.

An output is judged by its distance from the float64 reference, beside the original's own distance:

    error ≤ 4 · (the original's own error) + (eps + 16 · eps₃₂) · max |reference|

with eps of the model's dtype and eps₃₂ of the arithmetic: float32's, or the dtype's where that is finer. The
first term says: about as close to exact arithmetic as the original is. The second covers the original that
happens to be exact: sums are formed in float32 at least, and rounded to the dtype once. Where that is not
enough, the original's own error is what roundings inside it could have made it (``sensitivity.py``). Errors
are worst absolute ones over all inputs. The original's own error has a bound too, or a wrong original would
widen the tolerance until anything passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

MULTIPLE = 4
"""A converted model may err this many times as much as the original does …"""
FLOOR = 16
"""… plus this many roundings of the arithmetic, and one of the dtype, of the largest output."""

_FLOAT64 = 64

PRODUCTS = 32
"""Likewise of a single layer, of the sum of its absolute products."""


def floor(dtype: torch.dtype, roundings: int = FLOOR, *, stored: int = 1) -> float:
    """``stored`` roundings of ``dtype`` and ``roundings`` of the arithmetic; 0 for integers and bools.

    In float64 the reference is no more exact than what it judges, and has its own roundings.

    >>> floor(torch.float32) / torch.finfo(torch.float32).eps, floor(torch.int64)
    (17.0, 0.0)
    """
    if not dtype.is_floating_point:
        return 0.0
    eps = torch.finfo(dtype).eps
    own = _FLOAT64 if dtype == torch.float64 else 0
    return stored * eps + (roundings + own) * min(eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Measure:
    """Distances from the reference.

    Attributes:
        error: the candidate's, worst absolute.
        original_error: the original's own.
        scale: largest absolute value of the reference's output.
        dtype: the model's; of an output of integers or bools, its own.
        reach: largest sum of absolute products behind an output, where it is known: what roundings of the
            arithmetic are relative to. Else they are taken relative to ``scale``.
        moved: how far roundings inside the network may move the output, where that was looked at: an error
            that the original could have had.
    """

    error: float
    original_error: float
    scale: float
    dtype: torch.dtype
    reach: float | None = None
    moved: float = 0.0

    @property
    def tolerance(self) -> float:
        """The largest error that passes."""
        own = MULTIPLE * max(self.original_error, self.moved)
        if self.reach is None:
            return own + floor(self.dtype) * self.scale
        rounded = floor(self.dtype, 0) * self.scale + floor(self.dtype, PRODUCTS, stored=0) * self.reach
        return own + rounded

    @property
    def relative_error(self) -> float:
        """The error over the largest output."""
        return self.error / self.scale if self.scale else float(self.error > 0)

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
    rows = [(measure.error, measure.original_error, measure.scale, measure.moved) for measure in found]
    error, original_error, scale, moved = (max(column) for column in zip(*rows, strict=True))
    return Measure(error, original_error, scale, found[0].dtype, moved=moved)


@dataclass(frozen=True)
class Case:
    """One output on one input of a shape."""

    shape: tuple[int, ...]
    output: int
    measure: Measure


@dataclass(frozen=True)
class LayerCheck:
    """One converted layer by itself; without measures where it could not be compared.

    Attributes:
        name: its path.
        measure: on a random input, of the channel that comes closest to its tolerance.
        real: likewise on what it sees inside the network; None where the network was not walked through.
        problem: what is wrong; None where nothing is.
    """

    name: str
    measure: Measure | None
    problem: str | None
    real: Measure | None = None

    @property
    def passed(self) -> bool:
        """Whether the layer is right."""
        return self.problem is None


@dataclass(frozen=True)
class Symmetry:
    """What becomes of features, or of the output, when the input's hue turns by one rotation.

    Attributes:
        name: the layer's path, or ``output``.
        reason: why nothing is to be expected of it, by design; None where something is.
        original: how far the original's features are from rolling by one, or its output from staying;
            relative to the largest.
        candidate: likewise; None where it cannot be seen.
        problem: what is wrong; None where nothing is.
    """

    name: str
    reason: str | None
    original: float
    candidate: float | None
    problem: str | None


@dataclass(frozen=True)
class StepCheck:
    """The features after one step of the network, with all that came before it."""

    name: str
    is_layer: bool
    measure: Measure | None
    problem: str | None


@dataclass(frozen=True)
class Agreement:
    """How often the largest of an output's scores is the same."""

    same: int
    of: int

    def __str__(self) -> str:
        return f"top-1 alike on {self.same} of {self.of}"


@dataclass(frozen=True)
class Accuracy:
    """How many of the user's labelled inputs are classified right."""

    original: int
    candidate: int
    of: int

    def __str__(self) -> str:
        return f"accuracy {self.candidate / self.of:.2%}, the original's {self.original / self.of:.2%}"


@dataclass(frozen=True)
class Verdict:
    """Whether a converted network is the original, and how closely.

    Attributes:
        candidate: what was judged, in words.
        cases: one an input and output.
        layers: one a converted layer; empty where the candidate has no layers to look at.
        worst: of the output that comes closest to its tolerance, over all inputs.
        problem: why it failed; None where it passed.
        steps: the features after each step of the network, on the first input.
        agreement: of the largest scores, where an output looks like class scores.
        accuracy: on the user's inputs, where their classes are known.
        symmetries: the equivariance oracle, one a layer and one for the output.
    """

    candidate: str
    cases: tuple[Case, ...]
    layers: tuple[LayerCheck, ...]
    worst: Measure
    problem: str | None
    steps: tuple[StepCheck, ...] = ()
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    symmetries: tuple[Symmetry, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the candidate computes the same as the original."""
        return self.problem is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return verdict_as_line(self)


def verdict_as_line(*verdicts: Verdict) -> str:
    """One line: what was judged, how it came out, and by how much. The first failure speaks for all."""
    for verdict in verdicts:
        if not verdict.passed:
            return f"FAIL: {verdict.candidate}: {verdict.problem}"
    inputs = max(len({case.shape for case in verdict.cases}) for verdict in verdicts)
    layers = max(len(verdict.layers) for verdict in verdicts)
    worst = max((verdict.worst for verdict in verdicts), key=lambda measure: measure.strain)
    agreements = [verdict.agreement for verdict in verdicts if verdict.agreement is not None]
    alike = min(agreements, key=lambda agreement: agreement.same / agreement.of, default=None)
    accuracy = next((verdict.accuracy for verdict in reversed(verdicts) if verdict.accuracy), None)
    return (
        f"PASS: {' and '.join(verdict.candidate for verdict in verdicts)}: worst error {worst.error:.1e}, "
        f"the original's own {worst.original_error:.1e}, tolerance {worst.tolerance:.1e}, "
        f"on {inputs} inputs{f' and {layers} layers' if layers else ''}{f', {alike}' if alike else ''}"
        f"{f', {accuracy}' if accuracy else ''}"
    )
