"""The float64 referee, and the verdict on a conversion."""

from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.evidence import Evidence, gather
from ceconv_convert.verification.hue import hue_circle
from ceconv_convert.verification.inputs import as_text, check_memory, random_input
from ceconv_convert.verification.judge import judge, judge_module, symmetries_of
from ceconv_convert.verification.plain import verdict_in_full, verdict_summary
from ceconv_convert.verification.running import Outputs, flatten, run_module
from ceconv_convert.verification.symmetry import Turn
from ceconv_convert.verification.verdict import (
    Case,
    LayerCheck,
    Measure,
    Verdict,
    verdict_as_line,
)

__all__ = [
    "Case",
    "Evidence",
    "LayerCheck",
    "Measure",
    "Outputs",
    "Turn",
    "Verdict",
    "as_text",
    "check_memory",
    "distance",
    "flatten",
    "gather",
    "hue_circle",
    "judge",
    "judge_module",
    "largest",
    "random_input",
    "run_module",
    "symmetries_of",
    "verdict_as_line",
    "verdict_in_full",
    "verdict_summary",
]
