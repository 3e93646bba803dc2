"""A candidate against the evidence: the verdict."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES
from ceconv_convert.forms.target import TargetLayer
from ceconv_convert.surgery import copy_model
from ceconv_convert.verification.decisions import accuracy, agreement
from ceconv_convert.verification.equivariance import HueRotation
from ceconv_convert.verification.evidence import Evidence, Progress
from ceconv_convert.verification.layers import check_layer
from ceconv_convert.verification.outputs import Outputs, Recording, record, run_candidate, run_module
from ceconv_convert.verification.reference import Example
from ceconv_convert.verification.tolerance import Measure, compare_tensors, pool
from ceconv_convert.verification.verdict import Case, LayerCheck, StepCheck, Symmetry, Verdict


def judge(
    evidence: Evidence,
    run: Callable[[Tensor], Outputs],
    candidate: str,
    *,
    layers: Sequence[LayerCheck] = (),
    steps: Sequence[StepCheck] = (),
    symmetries: Sequence[Symmetry] = (),
    progress: Progress | None = None,
) -> Verdict:
    """Run a candidate on the evidence's inputs and judge its outputs, with checks already made of its parts.

    ``run`` gives the outputs in the original's order. ``progress`` is called with inputs done and in all.
    """
    examples = (*evidence.random, *evidence.user)
    cases: list[Case] = []
    measures: dict[int, list[Measure]] = defaultdict(list)
    found: list[Outputs] = []
    problem = None
    for done, example in enumerate(examples, 1):
        x, own, exact = example.input, example.original.outputs, example.reference.outputs
        outputs = run_candidate(run, x, own, exact)
        if isinstance(outputs, str):
            problem = outputs
            break
        found.append(outputs)
        for index, measure in enumerate(_measures(outputs, example)):
            cases.append(Case(tuple(x.shape), index, measure))
            measures[index].append(measure)
        if progress is not None:
            progress(done, len(examples))
    pooled = map(pool, measures.values())
    worst = max(pooled, key=lambda measure: measure.error_over_tolerance, default=None)
    if worst is None or problem is not None:
        worst = Measure(math.nan, math.nan, math.nan, evidence.dtype)  # there is no number for what is wrong
    original, right = [example.original.outputs for example in examples], None
    if evidence.labels is not None and len(found) == len(examples):
        first = len(evidence.random)
        right = accuracy(original[first:], found[first:], evidence.labels)
    return Verdict(
        candidate,
        tuple(cases),
        tuple(layers),
        worst,
        _first_problem(problem or worst.problem, layers, steps, symmetries),
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
    modules, recorded = dict(module.named_modules()), {step.name for step in trace.example.original.steps}
    names = [name for name in modules if name in recorded]

    @cache
    def recording(x: Tensor) -> Recording:
        return record(module, x, names)

    def run(x: Tensor) -> Outputs:
        return recording(x).outputs if x is trace.example.input else run_module(module, x)

    on_first = Recording()
    with suppress(*FOREIGN_FAILURES):  # where it does not run, its outputs tell
        on_first = recording(trace.example.input)
    layers = [
        check_layer(name, layer.forward, *evidence.layers[name])
        for name, layer in modules.items()
        if isinstance(layer, TargetLayer) and name in evidence.layers
    ]
    return judge(
        evidence,
        run,
        candidate,
        layers=layers,
        steps=trace.compare_steps(on_first),
        symmetries=rotation.compare(recording) if isinstance(rotation, HueRotation) else [],
        progress=progress,
    )


def _first_problem(
    output: str | None,
    layers: Sequence[LayerCheck],
    steps: Sequence[StepCheck],
    symmetries: Sequence[Symmetry],
) -> str | None:
    """What is wrong, and where it begins: the layer itself, if one is; else the first step that is off."""
    for layer in layers:
        if layer.problem is not None:
            return f"layer {layer.name or '(root)'}: {layer.problem}"
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


def _measures(found: Outputs, example: Example) -> list[Measure]:
    """Of each output; rounding inside the network is considered where one fails without."""
    pairs = zip(example.original.outputs, example.reference.outputs, strict=True)
    dtype = example.input.dtype
    measures = [compare_tensors(output, *pair, dtype) for output, pair in zip(found, pairs, strict=True)]
    if not any(measure.problem for measure in measures):
        return measures
    return [
        replace(measure, sensitivity=moved) if measure.dtype.is_floating_point else measure
        for measure, moved in zip(measures, example.sensitivity, strict=True)
    ]
