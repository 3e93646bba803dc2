"""The verdict, and where its tolerance comes from.

An output is judged by its distance from the float64 referee, beside the original's own distance:

    error ≤ 4 · (the original's own error) + 16 · eps · max |referee|

with eps of the model's dtype. The first term says: about as close to exact arithmetic as the original is.
The second covers the original that happens to be exact. Errors are worst absolute ones over all inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MULTIPLE = 4
"""A converted model may err this many times as much as the original does …"""
FLOOR = 16
"""… plus this many roundings of the largest output."""


def tolerance(original_error: float, scale: float, dtype: torch.dtype) -> float:
    """The largest error that passes; ``scale`` is the largest absolute value of the referee's output."""
    return MULTIPLE * original_error + FLOOR * torch.finfo(dtype).eps * scale


@dataclass(frozen=True)
class Case:
    """One input: its shape, the candidate's and the original's worst error, the largest output."""

    shape: tuple[int, ...]
    error: float
    original_error: float
    scale: float


@dataclass(frozen=True)
class LayerCheck:
    """One converted layer on a random input of its own."""

    name: str
    error: float
    original_error: float
    tolerance: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the layer is right."""
        return self.problem is None


@dataclass(frozen=True)
class Verdict:
    """Whether a converted network is the original, and how closely.

    Attributes:
        candidate: what was judged, in words.
        cases: one an input.
        layers: one a converted layer; empty where the candidate has no layers to look at.
        error, original_error, scale, tolerance: over all cases.
        problem: why it failed; None where it passed.
    """

    candidate: str
    cases: tuple[Case, ...]
    layers: tuple[LayerCheck, ...]
    error: float
    original_error: float
    scale: float
    tolerance: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the candidate computes the same as the original."""
        return self.problem is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        from ceconv_convert.report.text import verdict_as_line

        return verdict_as_line(self)
