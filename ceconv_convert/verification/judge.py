"""Candidate against evidence → verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.modules import TargetLayer, copy_model
from ceconv_convert.verification.distance import distance, distances, largest
from ceconv_convert.verification.evidence import Evidence, LayerEvidence, Outputs, Progress, run_module
from ceconv_convert.verification.inputs import as_text
from ceconv_convert.verification.verdict import Case, LayerCheck, Measure, Verdict, floor, pool

_STORED = 4
_LAYER_BOUND = 2**10
"""An original layer this many roundings from its closed form computes something else."""


def judge(
    evidence: Evidence,
    run: Callable[[Tensor], Outputs],
    candidate: str,
    *,
    layers: Sequence[LayerCheck] = (),
    progress: Progress | None = None,
) -> Verdict:
    """Run a candidate on the evidence's inputs and judge its outputs.

    Args:
        evidence: from the original.
        run: the candidate: input → outputs, in the original's order.
        candidate: its name in words.
        layers: checks already made of its layers; one that failed fails the verdict.
        progress: called with inputs done and inputs in all.
    """
    cases: list[Case] = []
    problem = next(
        (f"layer {check.name or '(root)'}: {check.problem}" for check in layers if check.problem), None
    )
    for index, x in enumerate(evidence.inputs):
        outcome = _compare(run, x, evidence.original[index], evidence.exact[index])
        if isinstance(outcome, str):
            problem = problem or outcome
            break
        cases += outcome
        if progress is not None:
            progress(index + 1, len(evidence.inputs))
    measures = [
        pool(case.measure for case in cases if case.output == output)
        for output in sorted({case.output for case in cases})
    ]
    worst = max(measures, key=lambda measure: measure.strain, default=Measure(0.0, 0.0, 0.0, evidence.dtype))
    return Verdict(candidate, tuple(cases), tuple(layers), worst, problem or worst.problem)


def judge_module(
    evidence: Evidence, converted: nn.Module, candidate: str, *, progress: Progress | None = None
) -> Verdict:
    """Judge a converted module, whole and layer by layer. ``converted`` is not changed."""
    module = copy_model(converted).eval()
    checks = [
        _check_layer(name, layer, evidence.layers[name])
        for name, layer in module.named_modules()
        if isinstance(layer, TargetLayer) and name in evidence.layers
    ]
    return judge(evidence, lambda x: run_module(module, x), candidate, layers=checks, progress=progress)


def _check_layer(name: str, layer: nn.Module, seen: LayerEvidence) -> LayerCheck:
    own = distance(seen.original, seen.exact)
    if not own <= floor(seen.input.dtype, _LAYER_BOUND, stored=_STORED) * largest(seen.exact):
        # Else a wrong original would widen the tolerance until anything passes.
        return LayerCheck(name, None, f"the original is {own:.1e} from its own closed form")
    outcome = _compare(lambda x: run_module(layer.forward, x), seen.input, (seen.original,), (seen.exact,))
    if isinstance(outcome, str):
        return LayerCheck(name, None, outcome)
    measure = pool(case.measure for case in outcome)
    return LayerCheck(name, measure, measure.problem)


def _compare(
    run: Callable[[Tensor], Outputs], x: Tensor, original: Outputs, exact: Outputs
) -> list[Case] | str:
    """A case for each output, or what keeps them from being compared by number."""
    try:
        outputs = run(x)
    except FOREIGN_FAILURES as failure:
        return f"it does not run on {as_text(tuple(x.shape))}: {first_line(failure)}"
    if len(outputs) != len(original):
        return f"it gives {len(outputs)} outputs, the original {len(original)}"
    cases = []
    for index, (found, wanted, truth) in enumerate(zip(outputs, original, exact, strict=True)):
        problem = _mismatch(found, wanted, truth)
        if problem is not None:
            return problem
        cases.append(Case(tuple(x.shape), index, _measure(found, wanted, truth, x.dtype)))
    return cases


def _measure(found: Tensor, wanted: Tensor, truth: Tensor, dtype: torch.dtype) -> Measure:
    if not found.dtype.is_floating_point:
        # Which of two close scores is the larger may come out either way: what either says is right.
        error = torch.minimum(distances(found, truth), distances(found, wanted))
        return Measure(float(error.max()) if error.numel() else 0.0, 0.0, largest(truth), found.dtype)
    return Measure(distance(found, truth), distance(wanted, truth), largest(truth), dtype)


def _mismatch(found: Tensor, wanted: Tensor, truth: Tensor) -> str | None:
    if found.shape != wanted.shape:
        return f"it gives shape {as_text(tuple(found.shape))}, the original {as_text(tuple(wanted.shape))}"
    if found.dtype != wanted.dtype:
        return f"it gives {found.dtype}, the original {wanted.dtype}"
    for tensor, whose in ((truth, "the referee"), (wanted, "the original"), (found, "it")):
        if not bool(torch.isfinite(tensor).all()):
            return f"{whose} gives NaN or Inf"
    return None
