"""The float64 referee, and the verdict on a conversion."""

from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.judge import judge, judge_module, symmetries_of
from ceconv_convert.verification.symmetry import Turn
from ceconv_convert.verification.verdict import (
    Case,
    LayerCheck,
    Measure,
    Verdict,
    verdict_as_data,
    verdict_as_line,
)

__all__ = [
    "Case",
    "Evidence",
    "LayerCheck",
    "Measure",
    "Turn",
    "Verdict",
    "gather",
    "judge",
    "judge_module",
    "symmetries_of",
    "verdict_as_data",
    "verdict_as_line",
]
