"""A candidate against the evidence: the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, first_line
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.equivariance import HueRotation
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.layers import check_layer
from ceconv_convert.verification.outputs import Outputs, accuracy, agreement, run_module
from ceconv_convert.verification.reference import Example
from ceconv_convert.verification.shapes import as_text
from ceconv_convert.verification.tolerance import Measure, compare_tensors, mismatch, pool
from ceconv_convert.verification.trace import Recording, record
from ceconv_convert.verification.verdict import Case, LayerCheck, StepCheck, Symmetry, Verdict

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
        layers: checks already made of its layers; a failed one fails the verdict, as below.
        steps: of its features along the network.
        symmetries: of its hue equivariance.
        progress: called with inputs done and inputs in all.
    """
    examples = (*evidence.random, *evidence.user)
    cases: list[Case] = []
    found: list[Outputs] = []
    problem = None
    for done, example in enumerate(examples, 1):
        outcome = _compare(run, example)
        if isinstance(outcome, str):
            problem = outcome
            break
        found.append(outcome[0])
        cases += outcome[1]
        if progress is not None:
            progress(done, len(examples))
    outputs = sorted({case.output for case in cases})
    pooled = [pool(case.measure for case in cases if case.output == output) for output in outputs]
    worst = max(pooled, key=lambda measure: measure.error_over_tolerance, default=None)
    if worst is None or problem is not None:
        worst = Measure(math.nan, math.nan, math.nan, evidence.dtype)  # there is no number for what is wrong
    original = [example.original for example in examples]
    right = None
    if evidence.user and evidence.labels is not None and len(found) == len(examples):
        first = len(evidence.random)
        right = accuracy(original[first:], found[first:], evidence.labels)
    return Verdict(
        candidate,
        tuple(cases),
        tuple(layers),
        worst,
        _first_problem(layers, problem or worst.problem, steps, symmetries),
        tuple(steps),
        agreement(original, found),
        right,
        tuple(symmetries),
    )


def judge_module(
    evidence: Evidence, converted: nn.Module, candidate: str, *, progress: Progress | None = None
) -> Verdict:
    """Judge a converted module, whole, layer by layer and step by step. ``converted`` is not changed."""
    module, trace, rotation = copy_model(converted).eval(), evidence.trace, evidence.hue_rotation
    modules, recorded = dict(module.named_modules()), {step.name for step in trace.original.steps}
    names = [name for name in modules if name in recorded]

    @cache
    def recording(x: Tensor) -> Recording:
        return record(module, x, names)

    def run(x: Tensor) -> Outputs:
        return recording(x).outputs if x is trace.input else run_module(module, x)

    plain = Recording()
    with suppress(*FOREIGN_FAILURES):  # where it does not run, its outputs tell
        plain = recording(trace.input)
    steps = trace.compare_steps(plain)
    layers = [
        check_layer(name, layer.forward, *evidence.layers[name])
        for name, layer in modules.items()
        if isinstance(layer, TargetLayer) and name in evidence.layers
    ]
    symmetries = rotation.compare(recording) if isinstance(rotation, HueRotation) else []
    return judge(
        evidence, run, candidate, layers=layers, steps=steps, symmetries=symmetries, progress=progress
    )


def _first_problem(
    layers: Sequence[LayerCheck],
    output: str | None,
    steps: Sequence[StepCheck],
    symmetries: Sequence[Symmetry],
) -> str | None:
    """What is wrong, and where it begins: the layer itself, if one is; else the first step that is off."""
    for check in layers:
        if check.problem is not None:
            return f"layer {check.name or '(root)'}: {check.problem}"
    off = [step for step in steps if step.problem is not None]
    if output is not None:
        return f"{output}; it begins at {off[0].name}: {off[0].problem}" if off else output
    for step in off:
        if step.features is not None or step.is_layer:
            return f"{step.name}: {'' if step.features is None else 'the features after it: '}{step.problem}"
    for symmetry in symmetries:
        if symmetry.problem is not None:
            return f"{symmetry.name}: it is not as equivariant as the original: {symmetry.problem}"
    return None


def _compare(run: Run, example: Example) -> tuple[Outputs, list[Case]] | str:
    """The outputs with a case for each, or why they cannot be compared by number."""
    x = example.input
    try:
        outputs = run(x)
    except FOREIGN_FAILURES as failure:
        return f"it does not run on {as_text(tuple(x.shape))}: {first_line(failure)}"
    if len(outputs) != len(example.original):
        return f"it gives {len(outputs)} outputs, the original {len(example.original)}"
    measures = []
    for found, original, exact in zip(outputs, example.original, example.exact, strict=True):
        problem = mismatch(found, original, exact)
        if problem is not None:
            return problem
        measures.append(compare_tensors(found, original, exact, x.dtype))
    if any(measure.problem for measure in measures):
        measures = [
            replace(measure, sensitivity=moved) if measure.dtype.is_floating_point else measure
            for measure, moved in zip(measures, example.sensitivity, strict=True)
        ]
    return outputs, [Case(tuple(x.shape), index, measure) for index, measure in enumerate(measures)]
