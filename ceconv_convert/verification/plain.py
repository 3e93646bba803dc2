"""Verdicts as plain data, for records and reports."""

from __future__ import annotations

from dataclasses import asdict

from ceconv_convert.verification.verdict import Measure, Verdict


def verdict_summary(verdict: Verdict) -> dict[str, object]:
    """What goes into a written file."""
    return {
        "candidate": verdict.candidate,
        "passed": verdict.passed,
        "problem": verdict.problem,
        **_measure(verdict.worst),
        "inputs": len({case.shape for case in verdict.cases}),
        "layers": len(verdict.layers),
    }


def verdict_in_full(verdict: Verdict) -> dict[str, object]:
    """What goes into a report."""
    return {
        **verdict_summary(verdict),
        "agreement": None if verdict.agreement is None else asdict(verdict.agreement),
        "accuracy": None if verdict.accuracy is None else asdict(verdict.accuracy),
        "cases": [
            {"shape": list(case.shape), "output": case.output, **_measure(case.measure)}
            for case in verdict.cases
        ],
        "layers": [
            {
                "name": check.name,
                "problem": check.problem,
                "random": _optional(check.measure),
                "real": _optional(check.real),
            }
            for check in verdict.layers
        ],
        "steps": [
            {
                "name": check.name,
                "is_layer": check.is_layer,
                "problem": check.problem,
                "features": _optional(check.measure),
            }
            for check in verdict.steps
        ],
        "symmetries": [
            {
                "name": symmetry.name,
                "reason": symmetry.reason,
                "problem": symmetry.problem,
                "original": symmetry.original,
                "candidate": symmetry.candidate,
            }
            for symmetry in verdict.symmetries
        ],
    }


def _measure(measure: Measure) -> dict[str, object]:
    return {
        "dtype": str(measure.dtype).removeprefix("torch."),
        "error": measure.error,
        "relative_error": measure.relative_error,
        "original_error": measure.original_error,
        "scale": measure.scale,
        "tolerance": measure.tolerance,
    }


def _optional(measure: Measure | None) -> dict[str, object] | None:
    return None if measure is None else _measure(measure)
