"""The features after each step of the original, matched with a candidate's and compared.

They are measured as outputs are: their distance from the float64 reference, beside the original's own.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ceconv_convert.kernel.rotation_major import from_rotation_major
from ceconv_convert.surgery import wrapper_prefix
from ceconv_convert.verification.outputs import Recording, Step, StepKey, record
from ceconv_convert.verification.reference import Example, Rounding
from ceconv_convert.verification.tolerance import compare_tensors, distance, largest
from ceconv_convert.verification.verdict import StepCheck

_PLANES, _FEATURES = 4, 5
"""Dimensions of ``[B, C, H, W]`` and ``[B, C, N, H, W]``."""
_SAMPLE = 4096
"""Numbers by which values of a graph are first compared with a step's features."""
_FAR = 0.05
"""A value further than this from a step's features, relative to their largest, is another one."""
_CLOSE = 1e-3
"""Values whose distances on the sample differ by less, relative to the largest, are compared whole."""
_MOST_PADDING = 16
"""Fewer channels than this are added as padding; at least the largest SIMD width that the compiler uses."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The steps that were recorded of the original and of its float64 reference, on one example."""

    example: Example

    @cached_property
    def prefix(self) -> str:
        """Of all names, by the wrappers around the network: an ONNX file is without them."""
        return wrapper_prefix(self.example.networks.original)

    @cached_property
    def _steps(self) -> list[Step]:
        """The original's that can be compared."""
        found = []
        for step in self.example.original.steps:
            exact = self.example.reference.features.get(step.key)
            if exact is not None and exact.shape == step.output.shape and exact.is_floating_point():
                found += [step] if bool(torch.isfinite(exact).all()) else []
        return found

    @cached_property
    def _rounded(self) -> Mapping[StepKey, Tensor]:
        """The reference's features with rounding inside it."""
        networks, names = self.example.networks, {step.name for step in self.example.original.steps}
        with Rounding(torch.finfo(networks.dtype).eps):
            return record(networks.reference, self.example.input.double(), names).features

    def compare_steps(self, found: Recording) -> list[StepCheck]:
        """Check a candidate module's steps, in the original's order; those that it has."""
        steps = (step for step in self._steps if step.key in found.features)
        return [self._check(step, found.features[step.key]) for step in steps]

    def compare_values(
        self, values: Sequence[Tensor], *, folded: Collection[str] = frozenset()
    ) -> list[StepCheck]:
        """Check a graph's values: each step against the value closest to it.

        A graph has no module names, and may lack a step's value, where operators are fused. It does not have
        the features of the layers ``folded``, which a norm was folded into: they are judged by themselves.
        """
        checks = {step.key: self._check(step, self._closest(step, values)) for step in self._steps}
        self._inherit(checks)
        for step in self._steps:
            if step.name.removeprefix(self.prefix) in folded and checks[step.key].problem is not None:
                checks[step.key] = replace(checks[step.key], features=None, problem=None)
        return list(checks.values())

    def _check(self, step: Step, found: Tensor | None) -> StepCheck:
        exact, original = self.example.reference.features[step.key], step.output
        problem = measure = None
        if found is None:
            problem = "nothing in it has these features"
        elif found.numel() != exact.numel():
            problem = "its features have another shape"
        elif original.dtype.is_floating_point:
            measure = compare_tensors(found.reshape(exact.shape), original, exact, original.dtype)
            if measure.problem is not None and step.key in self._rounded:
                measure = replace(measure, sensitivity=distance(self._rounded[step.key], exact))
            problem = measure.problem
        return StepCheck(str(step), problem, step.name in self.example.networks.specs, measure)

    def _closest(self, step: Step, values: Sequence[Tensor]) -> Tensor | None:
        """The value of a graph that holds a step's features, flattened in their order; None without one."""
        features = self.example.reference.features[step.key]
        exact = features.flatten()
        scale, stride = largest(exact), max(1, exact.numel() // _SAMPLE)
        held = (found for value in values for found in _as_features(value, features.shape))
        apart = [(distance(found[::stride], exact[::stride]), found) for found in held]
        nearest = min((difference for difference, _ in apart), default=float("inf"))
        if not nearest <= _FAR * scale:
            return None
        close = [found for difference, found in apart if difference <= nearest + _CLOSE * scale]
        # A sample does not see what few numbers tell apart, as a clamp that few of them reach.
        return min(close, key=lambda found: distance(found, exact)) if len(close) > 1 else close[0]

    def _inherit(self, checks: dict[StepKey, StepCheck]) -> None:
        """A step that the runtime fused away inherits the check of its consumer; so does one before a norm.

        Not every step before a right one is right: a ReLU hides what it cuts off, and pooling the order of
        rotations.
        """
        consumers: dict[int, list[Step]] = defaultdict(list)
        for step in self.example.original.steps:
            for source in step.sources:
                consumers[source].append(step)
        for index, step in reversed(list(enumerate(self.example.original.steps))):
            check = checks.get(step.key)
            if check is None or check.problem is None:
                continue
            for consumer in consumers[index]:
                behind = checks.get(consumer.key)
                fused = check.features is None and (consumer.is_norm or not check.is_layer)
                if behind is not None and (fused or (consumer.is_norm and behind.problem is None)):
                    checks[step.key] = replace(check, features=behind.features, problem=behind.problem)


def _as_features(value: Tensor, shape: torch.Size) -> Iterator[Tensor]:
    """A graph's value as features of ``shape``, flattened, in every layout in which it may hold them.

    As they are, in any shape of the same size; or rotation-major, perhaps with padding of the channels:
    ``[B, N, C', H, W]`` or ``[B, N·C', H, W]`` for ``[B, C, N, H, W]``, and ``[B, C', H, W]`` without N.
    """
    if value.numel() == shape.numel():
        yield value.flatten()
    if not {value.dim(), len(shape)} <= {_PLANES, _FEATURES}:
        return
    channels, rotations = shape[1], shape[2] if len(shape) == _FEATURES else 1
    if (value.shape[0], value.shape[-2:]) != (shape[0], shape[-2:]):
        return
    if value.dim() == _FEATURES and value.shape[1] != rotations:
        return
    padded, rest = divmod(value.shape[1:-2].numel(), rotations)
    if not rest and channels <= padded < channels + _MOST_PADDING:
        yield from_rotation_major(value, channels, rotations).flatten()
