"""Candidate against evidence → verdict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.modules import TargetLayer
from ceconv_convert.verification.evidence import Evidence, LayerEvidence, Outputs, Progress, run_module
from ceconv_convert.verification.inputs import as_text
from ceconv_convert.verification.verdict import Case, LayerCheck, Verdict, tolerance

_LAYER_BOUND = 1024
"""An original layer this many roundings from the referee computes something else than its closed form."""


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
    problem: str | None = None
    for index, x in enumerate(evidence.inputs):
        original, exact = evidence.original[index], evidence.exact[index]
        outputs: Outputs = ()
        try:
            outputs = run(x)
        except FOREIGN_FAILURES as error:
            problem = problem or f"it does not run on {as_text(tuple(x.shape))}: {first_line(error)}"
        problem = problem or _mismatch(outputs, original, exact)
        if problem is not None:
            break
        errors = [_distance(found, truth) for found, truth in zip(outputs, exact, strict=True)]
        own = [_distance(found, truth) for found, truth in zip(original, exact, strict=True)]
        scale = max((_largest(truth) for truth in exact), default=0.0)
        cases.append(Case(tuple(x.shape), max(errors, default=0.0), max(own, default=0.0), scale))
        if progress is not None:
            progress(index + 1, len(evidence.inputs))
    error = max((case.error for case in cases), default=0.0)
    original_error = max((case.original_error for case in cases), default=0.0)
    scale = max((case.scale for case in cases), default=0.0)
    bound = tolerance(original_error, scale, evidence.dtype)
    failed = [check for check in layers if not check.passed]
    if failed:
        problem = f"layer {failed[0].name or 'at the root'}: {failed[0].problem}"
    elif problem is None and error > bound:
        problem = f"its error {error:.1e} is above the tolerance {bound:.1e}"
    return Verdict(
        candidate, tuple(cases), tuple(layers), error, original_error, scale, bound, problem
    )


def judge_module(
    evidence: Evidence, converted: nn.Module, candidate: str, *, progress: Progress | None = None
) -> Verdict:
    """Judge a converted module, whole and layer by layer. ``converted`` is not changed."""
    module = copy.deepcopy(converted).eval()
    checks = []
    for name, layer in module.named_modules():
        if isinstance(layer, TargetLayer) and name in evidence.layers:
            checks.append(_check_layer(name, layer, evidence.layers[name], evidence.dtype))
    return judge(
        evidence, lambda x: run_module(module, x), candidate, layers=checks, progress=progress
    )


def _check_layer(name: str, layer: nn.Module, seen: LayerEvidence, dtype: torch.dtype) -> LayerCheck:
    original_error = _distance(seen.original, seen.exact)
    scale = _largest(seen.exact)
    bound = tolerance(original_error, scale, dtype)
    limit = min(_LAYER_BOUND * torch.finfo(dtype).eps, 0.1) * scale
    if not original_error <= limit:
        problem = f"the original is {original_error:.1e} from its own closed form: not a CEConv layer, or NaN"
        return LayerCheck(name, float("nan"), original_error, bound, problem)
    try:
        found = run_module(layer, seen.input)
    except FOREIGN_FAILURES as error:
        return LayerCheck(name, float("nan"), original_error, bound, f"it does not run: {first_line(error)}")
    problem = _mismatch(found, (seen.original,), (seen.exact,))
    error = float("nan") if problem else _distance(found[0], seen.exact)
    if problem is None and error > bound:
        problem = f"its error {error:.1e} is above the tolerance {bound:.1e}"
    return LayerCheck(name, error, original_error, bound, problem)


def _mismatch(outputs: Outputs, original: Outputs, exact: Outputs) -> str | None:
    """What keeps outputs from being compared by number, or None."""
    if len(outputs) != len(original):
        return f"it gives {len(outputs)} outputs, the original {len(original)}"
    for found, wanted, truth in zip(outputs, original, exact, strict=True):
        if found.shape != wanted.shape:
            return f"it gives shape {as_text(tuple(found.shape))}, the original {as_text(tuple(wanted.shape))}"
        if found.dtype != wanted.dtype:
            return f"it gives {found.dtype}, the original {wanted.dtype}"
        for tensor, whose in ((truth, "the referee"), (wanted, "the original"), (found, "it")):
            if not bool(torch.isfinite(tensor).all()):
                return f"{whose} gives NaN or Inf"
    return None


def _distance(found: Tensor, exact: Tensor) -> float:
    """Worst absolute error; 0 for an empty tensor."""
    difference = (found.to("cpu", torch.float64) - exact.to("cpu", torch.float64)).abs()
    return float(difference.max()) if difference.numel() else 0.0


def _largest(exact: Tensor) -> float:
    return float(exact.abs().max()) if exact.numel() else 0.0
