"""Candidate against evidence → verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.decisions import accuracy
from ceconv_convert.verification.distance import distance, distances, largest
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.layers import check_layer, mismatch
from ceconv_convert.verification.running import Outputs, run_module
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.steps import Step, record
from ceconv_convert.verification.symmetry import Turn
from ceconv_convert.verification.verdict import (
    Accuracy,
    Agreement,
    Case,
    LayerCheck,
    Measure,
    StepCheck,
    Symmetry,
    Verdict,
    pool,
)
from ceconv_convert.verification.walk import first_divergence

Run = Callable[[Tensor], Outputs]


def judge(
    evidence: Evidence,
    run: Run,
    candidate: str,
    *,
    layers: Sequence[LayerCheck] = (),
    steps: Sequence[StepCheck] = (),
    symmetries: Sequence[Symmetry] = (),
    progress: Progress | None = None,
) -> Verdict:
    """Run a candidate on the evidence's inputs and judge its outputs.

    Args:
        evidence: from the original.
        run: the candidate: input → outputs, in the original's order.
        candidate: its name in words.
        layers: checks already made of its layers; one that failed fails the verdict.
        steps: its features along the network; one of a layer that is off fails the verdict.
        symmetries: what became of them when the hue turned; one that failed fails the verdict.
        progress: called with inputs done and inputs in all.
    """
    cases: list[Case] = []
    found: list[Outputs] = []
    broken = None
    for index, x in enumerate(evidence.inputs):
        outcome = _compare(run, x, evidence.original[index], evidence.exact[index])
        if isinstance(outcome, str):
            broken = outcome
            break
        outputs, measured = outcome
        found.append(outputs)
        if any(case.measure.problem for case in measured):
            measured = _with_sensitivity(evidence, index, measured)
        cases += measured
        if progress is not None:
            progress(index + 1, len(evidence.inputs))
    measures = [
        pool(case.measure for case in cases if case.output == output)
        for output in sorted({case.output for case in cases})
    ]
    worst = max(measures, key=lambda measure: measure.strain, default=None)
    if worst is None or broken is not None:
        worst = Measure(math.nan, math.nan, math.nan, evidence.dtype)  # there is no number for what is wrong
    problem = _problem(layers, broken or worst.problem, steps, symmetries)
    return Verdict(
        candidate,
        tuple(cases),
        tuple(layers),
        worst,
        problem,
        tuple(steps),
        _agreement(evidence.original, found),
        _accuracy(evidence, found),
        tuple(symmetries),
    )


def judge_module(
    evidence: Evidence, converted: nn.Module, candidate: str, *, progress: Progress | None = None
) -> Verdict:
    """Judge a converted module, whole, layer by layer and step by step. ``converted`` is not changed."""
    module = copy_model(converted).eval()
    checks = [
        check_layer(name, layer, evidence.layers[name][0], evidence.layers[name][1:])
        for name, layer in module.named_modules()
        if isinstance(layer, TargetLayer) and name in evidence.layers
    ]

    def run(x: Tensor) -> Outputs:
        return run_module(module, x)

    names = {name for name, _ in module.named_modules()} & {step.name for step in evidence.walk.original}
    found = _record(module, evidence.walk.input, names)
    steps = evidence.walk.compare_steps(found)
    symmetries: list[Symmetry] = []
    if isinstance(evidence.turn, Turn):
        symmetries = symmetries_of(
            evidence.turn, run, found, _record(module, evidence.turn.turned, names & evidence.walk.layers)
        )
    return judge(
        evidence, run, candidate, layers=checks, steps=steps, symmetries=symmetries, progress=progress
    )


def symmetries_of(
    turn: Turn, run: Run, plain: Sequence[Step] = (), turned: Sequence[Step] = ()
) -> list[Symmetry]:
    """The equivariance oracle on a candidate; nothing where it does not run, which its outputs tell."""
    try:
        return turn.compare(run, plain, turned)
    except FOREIGN_FAILURES:
        return []


def _record(module: nn.Module, x: Tensor, names: set[str]) -> list[Step]:
    try:
        return record(module, x, [name for name, _ in module.named_modules() if name in names])
    except FOREIGN_FAILURES:
        return []  # its outputs tell


def _problem(
    layers: Sequence[LayerCheck],
    output: str | None,
    steps: Sequence[StepCheck],
    symmetries: Sequence[Symmetry],
) -> str | None:
    """What is wrong, and where it begins: the layer itself, if one is; else the first step that is off."""
    for check in layers:
        if check.problem is not None:
            return f"layer {check.name or '(root)'}: {check.problem}"
    first = first_divergence([step for step in steps if step.measure is not None or output is not None])
    off = next((step for step in steps if step.problem and (step.measure or step.is_layer)), None)
    if output is not None:
        return output if first is None else f"{output}; it begins at {first.name}: {first.problem}"
    if off is not None:
        features = "" if off.measure is None else "the features after it: "
        return f"{off.name}: {features}{off.problem}"
    turned = next((symmetry for symmetry in symmetries if symmetry.problem is not None), None)
    if turned is not None:
        return f"{turned.name}: it is not as equivariant as the original: {turned.problem}"
    return None


def _compare(run: Run, x: Tensor, original: Outputs, exact: Outputs) -> tuple[Outputs, list[Case]] | str:
    """The outputs and a case for each, or what keeps them from being compared by number."""
    try:
        outputs = run(x)
    except FOREIGN_FAILURES as failure:
        return f"it does not run on {as_text(tuple(x.shape))}: {first_line(failure)}"
    if len(outputs) != len(original):
        return f"it gives {len(outputs)} outputs, the original {len(original)}"
    cases = []
    for index, (found, wanted, truth) in enumerate(zip(outputs, original, exact, strict=True)):
        problem = mismatch(found, wanted, truth)
        if problem is not None:
            return problem
        cases.append(Case(tuple(x.shape), index, _measure(found, wanted, truth, x.dtype)))
    return outputs, cases


def _with_sensitivity(evidence: Evidence, index: int, cases: Sequence[Case]) -> list[Case]:
    """The cases of one input, with how far roundings inside the network may move each output."""
    moved = evidence.sensitivity.outputs(evidence.inputs[index], evidence.exact[index])
    return [
        replace(case, measure=replace(case.measure, moved=moved[case.output]))
        if case.measure.dtype.is_floating_point
        else case
        for case in cases
    ]


def _measure(found: Tensor, wanted: Tensor, truth: Tensor, dtype: torch.dtype) -> Measure:
    if not found.dtype.is_floating_point:
        # Which of two close scores is the larger may come out either way: what either says is right.
        error = torch.minimum(distances(found, truth), distances(found, wanted))
        return Measure(float(error.max()) if error.numel() else 0.0, 0.0, largest(truth), found.dtype)
    return Measure(distance(found, truth), distance(wanted, truth), largest(truth), dtype)


def _accuracy(evidence: Evidence, found: Sequence[Outputs]) -> Accuracy | None:
    count = len(evidence.data)
    if evidence.labels is None or not count or len(found) != len(evidence.inputs):
        return None
    return accuracy(evidence.original[-count:], found[-count:], evidence.labels)


def _agreement(original: Sequence[Outputs], found: Sequence[Outputs]) -> Agreement | None:
    """Of the first output that looks like class scores: ``[B, classes]``, two or more."""
    same = of = 0
    for wanted, outputs in zip(original, found, strict=False):
        for left, right in zip(wanted, outputs, strict=True):
            if left.dim() == 2 and left.shape[1] > 1 and left.dtype.is_floating_point:
                same += int((left.argmax(1).cpu() == right.argmax(1).cpu()).sum())
                of += left.shape[0]
                break
    return Agreement(same, of) if of else None
