"""Where along the network a candidate leaves the original: step by step, or by the values of a graph.

Every step is measured as outputs are: its distance from the reference beside the original's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ceconv_convert.surgery import wrapper_prefix
from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.layouts import Layouts
from ceconv_convert.verification.sensitivity import Sensitivity
from ceconv_convert.verification.steps import Step, StepKey, record
from ceconv_convert.verification.verdict import Measure, StepCheck

_SAMPLE = 4096
_LIKE = 0.05
"""A value of a graph this far from a step's features, of their largest, is another one."""
_TIE = 1e-3
"""Values that a sample tells apart by less than this, of the largest, are compared whole."""


@dataclass(frozen=True, eq=False)
class Walk:
    """The original and its reference on one input, step by step.

    Attributes:
        input: a batch of 1.
        original: the original's steps.
        exact: the reference's outputs by step.
        layers: names of the color-equivariant layers.
        prefix: of all names, by the wrappers around the network: an ONNX file is without them.
        sensitivity: how far roundings may move the features.
    """

    input: Tensor
    original: Sequence[Step]
    exact: Mapping[StepKey, Tensor]
    layers: frozenset[str]
    prefix: str = ""
    sensitivity: Sensitivity | None = None

    @cached_property
    def moved(self) -> Mapping[StepKey, float]:
        """How far roundings before and in each step may move its features."""
        return {} if self.sensitivity is None else self.sensitivity.steps(self.input, self.exact)

    def compare_steps(self, found: Sequence[Step]) -> list[StepCheck]:
        """Check a candidate module's steps, in the original's order; those that it has."""
        outputs = {step.key: step.output for step in found}
        return [
            self._check(step, outputs[step.key])
            for step in self.original
            if step.key in self.exact and step.key in outputs
        ]

    def compare_values(
        self, values: Sequence[Tensor], *, folded: Collection[str] = frozenset()
    ) -> list[StepCheck]:
        """Check a graph's values: each step against the value most like it.

        A graph has no module names, and may lack a step's value, where operators are fused. It does not have
        the features of the layers ``folded``, which took up a norm: they are judged by themselves.
        """
        layouts = Layouts(values)
        steps = [step for step in self.original if step.key in self.exact]
        checks = [self._check(step, self._most_like(self.exact[step.key], layouts)) for step in steps]
        return [
            _without_features(check) if step.name.removeprefix(self.prefix) in folded else check
            for step, check in zip(steps, self._explained(checks), strict=True)
        ]

    def _check(self, step: Step, found: Tensor | None) -> StepCheck:
        exact = self.exact[step.key]
        is_layer = step.name in self.layers
        if found is None:
            return StepCheck(str(step), is_layer, None, "nothing in it has these features")
        if found.numel() != exact.numel():
            return StepCheck(str(step), is_layer, None, "its features have another shape")
        if not step.output.dtype.is_floating_point:
            return StepCheck(str(step), is_layer, None, None)
        measure = Measure(
            distance(found.flatten(), exact.flatten()),
            distance(step.output, exact),
            largest(exact),
            step.output.dtype,
        )
        if measure.problem is not None:
            measure = replace(measure, moved=self.moved.get(step.key, 0.0))
        return StepCheck(str(step), is_layer, measure, measure.problem)

    def _most_like(self, exact: Tensor, layouts: Layouts) -> Tensor | None:
        flat = exact.flatten()
        stride = max(1, flat.numel() // _SAMPLE)
        sample = flat[::stride]
        found = ((distance(value[::stride], sample), value) for value in layouts.holding(exact.shape))
        ranked = sorted(found, key=lambda pair: pair[0])
        if not ranked or not ranked[0][0] <= _LIKE * largest(exact):
            return None
        alike = [value for apart, value in ranked if apart <= ranked[0][0] + _TIE * largest(exact)]
        # A sample does not see what few numbers tell apart, as a clamp that few of them reach.
        return min(alike, key=lambda value: distance(value, flat)) if len(alike) > 1 else alike[0]

    def _explained(self, checks: list[StepCheck]) -> list[StepCheck]:
        """A step without a value of its own is as right as what takes it up; so is one with a norm folded in.

        Not every step that is taken up rightly is right: a ReLU hides what it cuts off, and pooling the order
        of rotations.
        """
        keys = [step.key for step in self.original if step.key in self.exact]
        by_key = dict(zip(keys, checks, strict=True))
        result = dict(by_key)
        for index, step in reversed(list(enumerate(self.original))):  # what takes a step up comes first
            check = by_key.get(step.key)
            if check is None or check.problem is None:
                continue
            for taker in self.original:
                if index not in taker.sources or taker.key not in result:
                    continue
                taken = result[taker.key]
                absent = check.measure is None and (taker.is_norm or not check.is_layer)
                if absent or (taker.is_norm and taken.problem is None):
                    result[step.key] = replace(check, measure=taken.measure, problem=taken.problem)
        return list(result.values())


def walk_through(
    original: nn.Module, reference: nn.Module, layers: Collection[str], x: Tensor, sensitivity: Sensitivity
) -> Walk:
    """The original and its reference step by step on ``x``; ``layers`` are color-equivariant."""
    steps = record(original, x, sensitivity.names)
    exact = {step.key: step.output for step in record(reference, x.double(), sensitivity.names)}
    comparable = {
        step.key: exact[step.key]
        for step in steps
        if step.key in exact and exact[step.key].shape == step.output.shape and has_features(exact[step.key])
    }
    return Walk(x, steps, comparable, frozenset(layers), wrapper_prefix(original), sensitivity)


def _without_features(check: StepCheck) -> StepCheck:
    """Of a layer that took up a norm: what comes behind it is held to be right."""
    return check if check.problem is None else replace(check, measure=None, problem=None)


def first_divergence(checks: Sequence[StepCheck]) -> StepCheck | None:
    """The first step that is not as close as it should be."""
    return next((check for check in checks if check.problem is not None), None)


def has_features(exact: Tensor) -> bool:
    """Whether a step's output can be measured."""
    return exact.dtype.is_floating_point and bool(torch.isfinite(exact).all())
