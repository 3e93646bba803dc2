"""Is the original a measure? One that is random, or far from its reference, would widen every tolerance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ceconv_convert.errors import VerificationError
from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.running import Outputs
from ceconv_convert.verification.verdict import MULTIPLE, floor

_STORED = 2**8
"""Largest error of an original that is judged, in roundings of its dtype, …"""
_ROUNDINGS = 2**16
"""… and of the arithmetic; of its largest output."""
_CAP = 0.5
"""Largest error that is judged in any dtype, as a part of the largest output."""


def _bound(dtype: torch.dtype) -> float:
    return min(floor(dtype, _ROUNDINGS, stored=_STORED), _CAP)


def check_repeatable(first: Outputs, again: Outputs, dtype: torch.dtype) -> None:
    """Raise VerificationError where the outputs of one input differ from call to call."""
    for found, repeated in zip(first, again, strict=True):
        bound = _bound(dtype) * largest(found)
        if found.shape != repeated.shape or distance(found, repeated) > bound:
            raise VerificationError(
                "the original gives another output when it runs again on the same input: it is random in "
                "eval mode, or keeps state, and nothing can be compared with it"
            )


def check_original(
    found: Outputs, exact: Outputs, dtype: torch.dtype, moved: Callable[[], list[float]]
) -> None:
    """Raise VerificationError where the original is further from its reference than roundings explain.

    Args:
        found: the original's outputs.
        exact: the reference's.
        dtype: of the original.
        moved: gives how far roundings inside it may move each output.
    """
    for index, (output, truth) in enumerate(zip(found, exact, strict=True)):
        if not output.dtype.is_floating_point or output.shape != truth.shape:
            continue  # compared for equality; the verdict says so
        own, scale = distance(output, truth), largest(truth)
        if own > _bound(dtype) * scale and not own <= MULTIPLE * moved()[index]:
            raise VerificationError(
                f"the original is {own:.1e} from its own float64 reference, on outputs up to {scale:.1e}: "
                "too far to judge anything by it"
            )
