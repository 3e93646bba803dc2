"""The features after every step of a network: recorded, matched with a candidate's, and compared.

A step is a call of a module that holds no others. Each is measured as outputs are: its distance from the
float64 reference, beside the original's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ceconv_convert.kernel.rotation_major import from_rotation_major
from ceconv_convert.surgery import wrapper_prefix
from ceconv_convert.verification.outputs import Outputs, flatten
from ceconv_convert.verification.reference import Example, Rounding
from ceconv_convert.verification.tolerance import compare_tensors, distance, largest
from ceconv_convert.verification.verdict import StepCheck

StepKey = tuple[str, int]
"""The path of a module, and which of its calls: 0 for the first."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
class Step:
    """One call of a module, with a copy of its output.

    Attributes:
        name: the module's path.
        call: 0 for its first call, 1 for its second, …
        sources: positions of the steps whose outputs are its inputs.
        is_norm: whether it is a batch norm, which exporters fold into what comes before.
    """

    name: str
    call: int
    output: Tensor
    sources: tuple[int, ...]
    is_norm: bool = False

    @property
    def key(self) -> StepKey:
        """The same in every copy of the network."""
        return (self.name, self.call)

    def __str__(self) -> str:
        name = self.name or "(root)"
        return f"{name} (call {self.call + 1})" if self.call else name


@dataclass(frozen=True, eq=False)
class Recording:
    """One forward pass: the outputs, the steps in order of execution, and the first input of each."""

    outputs: Outputs = ()
    steps: Sequence[Step] = ()
    inputs: Mapping[StepKey, Tensor] = field(default_factory=dict)

    @cached_property
    def features(self) -> Mapping[StepKey, Tensor]:
        """The output of each step."""
        return {step.key: step.output for step in self.steps}


def leaf_names(network: nn.Module, layers: Collection[str]) -> list[str]:
    """The modules that hold no others; a color-equivariant layer is one, whatever it holds."""
    inside = tuple(f"{name}." if name else "" for name in layers)
    return [
        name
        for name, module in network.named_modules()
        if name in layers or not (any(module.children()) or (inside and name.startswith(inside)))
    ]


def record(network: nn.Module, x: Tensor, names: Collection[str] = ()) -> Recording:
    """Run ``network`` on ``x``, without gradients, and record the calls of the modules ``names``."""
    recorder = _Recorder()
    modules = dict(network.named_modules(remove_duplicate=False))  # an attribute may hide a registered module
    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            before, after = partial(recorder.before, name), partial(recorder.after, name)
            hooks.enter_context(modules[name].register_forward_pre_hook(before, with_kwargs=True))
            hooks.enter_context(modules[name].register_forward_hook(after, with_kwargs=True))
        outputs = flatten(network(x.clone()))  # a forward pass may work in place
    return Recording(outputs, recorder.steps, recorder.inputs)


class _Recorder:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.inputs: dict[StepKey, Tensor] = {}
        self._calls: dict[str, int] = defaultdict(int)
        self._producers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # else the ids of tensors that are gone are reused

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(iter((*args, *kwargs.values())), None)
        if isinstance(first, Tensor):
            self.inputs[name, self._calls[name]] = first.detach().clone()

    def after(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not isinstance(output, Tensor) or not inputs:
            return
        sources = tuple(self._producers[id(value)] for value in inputs if id(value) in self._producers)
        self._producers[id(output)] = len(self.steps)
        self._alive += (*inputs, output)
        is_norm = isinstance(module, _NORMS)
        self.steps.append(Step(name, self._calls[name], output.detach().clone(), sources, is_norm))
        self._calls[name] += 1


@dataclass(frozen=True, eq=False)
class Trace:
    """The original and its float64 reference on one example, both recorded at the modules ``names``."""

    example: Example
    original: Recording
    reference: Recording
    names: Sequence[str]

    @property
    def input(self) -> Tensor:
        """Of the example: a batch of 1."""
        return self.example.input

    @cached_property
    def prefix(self) -> str:
        """Of all names, by the wrappers around the network: an ONNX file is without them."""
        return wrapper_prefix(self.example.networks.original)

    @cached_property
    def _steps(self) -> list[Step]:
        """The original's that can be compared."""
        found = []
        for step in self.original.steps:
            exact = self.reference.features.get(step.key)
            if exact is None or exact.shape != step.output.shape or not exact.is_floating_point():
                continue
            if bool(torch.isfinite(exact).all()):
                found.append(step)
        return found

    @cached_property
    def _rounded(self) -> Mapping[StepKey, Tensor]:
        """The reference's features with rounding inside it."""
        networks = self.example.networks
        with Rounding(torch.finfo(networks.dtype).eps):
            return record(networks.reference, self.input.double(), self.names).features

    def compare_steps(self, found: Recording) -> list[StepCheck]:
        """Check a candidate module's steps, in the original's order; those that it has."""
        features = found.features
        return [self._check(step, features[step.key]) for step in self._steps if step.key in features]

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
        exact = self.reference.features[step.key]
        check = StepCheck(str(step), step.name in self.example.networks.specs, None, None)
        if found is None:
            return replace(check, problem="nothing in it has these features")
        if found.numel() != exact.numel():
            return replace(check, problem="its features have another shape")
        if not step.output.dtype.is_floating_point:
            return check
        measure = compare_tensors(found.reshape(exact.shape), step.output, exact, step.output.dtype)
        if measure.problem is not None and step.key in self._rounded:
            moved = distance(self._rounded[step.key], exact)
            measure = replace(measure, sensitivity=moved)
        return replace(check, features=measure, problem=measure.problem)

    def _closest(self, step: Step, values: Sequence[Tensor]) -> Tensor | None:
        """The value of a graph that holds a step's features, flattened in their order; None without one."""
        features = self.reference.features[step.key]
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
        for step in self.original.steps:
            for source in step.sources:
                consumers[source].append(step)
        for index, step in reversed(list(enumerate(self.original.steps))):
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
