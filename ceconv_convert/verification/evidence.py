"""What a candidate is judged by: inputs, the original's outputs, the reference's outputs. Gathered once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.verification.decisions import decide
from ceconv_convert.verification.layers import LayerEvidence, evidence_on, random_evidence
from ceconv_convert.verification.reference import make_original, make_reference
from ceconv_convert.verification.running import Outputs, run_module
from ceconv_convert.verification.sensitivity import Sensitivity
from ceconv_convert.verification.shapes import (
    BATCHES,
    Shape,
    as_text,
    device_of,
    dtype_of,
    find_shape,
    fits,
    in_batches,
    other_size,
    random_input,
    why_not,
)
from ceconv_convert.verification.soundness import check_original, check_repeatable
from ceconv_convert.verification.steps import leaf_names
from ceconv_convert.verification.symmetry import Turn, turn_through
from ceconv_convert.verification.verdict import FLOOR, MULTIPLE
from ceconv_convert.verification.walk import Walk, walk_through

Progress = Callable[[int, int], None]
_Case = tuple[Tensor, Outputs, Outputs]
"""An input, with the outputs of the original and of the reference."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the outputs of the original and of the reference.

    Attributes:
        shape: of one input, without the batch.
        fixed_size: why the network runs at this image size alone; None where it also ran at another.
        dtype: the network's.
        inputs: seeded random, batches of 1, 2 and 5, at one image size or two.
        original: the original's outputs, in eval mode.
        exact: the reference's outputs, float64.
        layers: each color-equivariant layer by itself, by name: on a random input, then on what it sees.
        walk: the original and the reference step by step, on the first input.
        turn: the first input with its hue turned, and what is expected; a text where there is no hue to turn.
        network: the original's copy in eval mode, which runs.
        reference: its copy in float64, with its layers in closed form.
        seed: of the random inputs.
        specs: what its color-equivariant layers compute, in float64, by name.
        sensitivity: how far roundings inside the network may move what it gives.
        rotations: of the lifting layer; None without one that turns the hue.
        data: the user's inputs, in batches; they are the last of ``inputs``.
        labels: their classes, where they are known.
    """

    shape: Shape
    fixed_size: str | None
    dtype: torch.dtype
    inputs: tuple[Tensor, ...]
    original: tuple[Outputs, ...]
    exact: tuple[Outputs, ...]
    layers: Mapping[str, tuple[LayerEvidence, ...]]
    walk: Walk
    turn: Turn | str
    network: nn.Module
    reference: nn.Module
    seed: int
    specs: Mapping[str, KernelSpec]
    sensitivity: Sensitivity
    rotations: int | None
    data: tuple[Tensor, ...] = ()
    labels: Tensor | None = None
    _further: dict[Shape, _Case | None] = field(default_factory=dict)

    def run_original(self, x: Tensor) -> Outputs:
        """The original on any input."""
        return run_module(self.network, x)

    def explain(self) -> list[str]:
        """What verdicts rest on: the inputs, and where the tolerance comes from."""
        random = self.inputs[: len(self.inputs) - len(self.data)]
        lines = [f"inputs: {', '.join(as_text(tuple(x.shape)) for x in random)}"]
        if self.data:
            count = sum(len(batch) for batch in self.data)
            lines.append(f"and {count} of the user's, {as_text(tuple(self.data[0].shape[1:]))}")
        if self.labels is not None:
            decided = decide(self.original[-len(self.data) :], self.labels)
            lines += [f"no accuracy: {decided}"] if isinstance(decided, str) else []
        if self.fixed_size is not None:
            lines.append(f"one image size alone, since the network takes no other: {self.fixed_size}")
        tolerance = f"{MULTIPLE} × the original's own error + {FLOOR + 1} roundings of the largest output"
        return [*lines, f"errors: worst distance from a float64 reference; tolerance: {tolerance}"]

    def fitting(self, declared: Sequence[int | None]) -> Evidence:
        """The inputs that a file takes; all where it takes none of them, which then shows.

        Args:
            declared: the shape of the file's input; None is a dynamic axis.
        """
        random = len(self.inputs) - len(self.data)
        cases = list(zip(self.inputs, self.original, self.exact, strict=True))
        kept = [case for case in cases[:random] if fits(case[0].shape, declared)]
        if not kept:
            return self
        batches = self.data
        if batches and declared[0] is not None:
            batches = torch.split(torch.cat(batches), declared[0])
        if not all(fits(batch.shape, declared) for batch in batches):
            return self._with(kept, (), None)
        again = cases[random:] if batches is self.data else [self._run(batch) for batch in batches]
        return self._with([*kept, *again], batches, self.labels)

    def elsewhere(self, shapes: Iterable[Shape]) -> Evidence:
        """With random inputs of further shapes, batch first, on which the network runs."""
        cases = list(zip(self.inputs, self.original, self.exact, strict=True))
        random = len(cases) - len(self.data)
        further = [case for shape in dict.fromkeys(shapes) if (case := self._at(shape)) is not None]
        return self._with([*cases[:random], *further, *cases[random:]], self.data, self.labels)

    def at(self, shape: Shape) -> Evidence:
        """With nothing but a random input of that shape, batch first, on which the network runs."""
        case = self._at(shape)
        if case is None:
            raise VerificationError(f"the original does not run on {as_text(shape)}")
        return self._with([case], (), None)

    def runs_at(self, shape: Shape) -> bool:
        """Whether the network runs on a random input of that shape, batch first."""
        return self._at(shape) is not None

    def _with(self, cases: Sequence[_Case], data: tuple[Tensor, ...], labels: Tensor | None) -> Evidence:
        inputs, original, exact = zip(*cases, strict=True)
        return replace(self, inputs=inputs, original=original, exact=exact, data=data, labels=labels)

    def _at(self, shape: Shape) -> _Case | None:
        """Computed once a shape."""
        if shape not in self._further:
            try:
                x = random_input(shape, self.seed, self.dtype, self.walk.input.device)
                self._further[shape] = self._run(x)
            except FOREIGN_FAILURES:
                self._further[shape] = None
        return self._further[shape]

    def _run(self, x: Tensor) -> _Case:
        return x, run_module(self.network, x), run_module(self.reference, x.double())


def gather(
    model: nn.Module,
    input_shape: Shape | None = None,
    *,
    found: Sequence[FoundLayer] | None = None,
    seed: int = 0,
    data: Tensor | None = None,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Run ``model`` and its reference on random inputs, and on the user's. ``model`` is not changed.

    Args:
        model: the original, in any mode and floating dtype.
        input_shape: without the batch; None finds one that the network runs on.
        found: its layers; None finds them.
        seed: of the random inputs.
        data: further inputs, ``[count, …]``; None has the random ones alone.
        labels: the classes of ``data``.
        progress: called with steps done and steps in all.

    Raises:
        InputShapeError: where the network does not run.
        VerificationError: where its float64 copy does not.
        UnreadableInputError: where its dtype does not hold ``data``, or a label is none of its classes.
    """
    lazy = [name for name, tensor in model.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if lazy:
        raise VerificationError(
            f"{', '.join(lazy)} has no numbers yet: run the model once, so that its lazy modules get them"
        )
    found = find_layers(model) if found is None else found
    original = make_original(model, found)
    dtype, device = dtype_of(original), device_of(original)
    if device.type == "meta":
        raise VerificationError("the model is on the meta device and has no numbers: load its weights first")
    reference, specs = make_reference(model, found)
    first = next(iter(specs.values()), None)
    if data is not None:
        taken = find_shape(original, tuple(data.shape[1:]), first)
        data, input_shape = data.reshape(len(data), *taken), input_shape or taken
    shape = find_shape(original, input_shape, first)
    fixed_size = why_not(original, other_size(shape))
    sizes = [shape] if fixed_size is not None else [shape, other_size(shape)]
    shapes = [(batch, *size) for size in sizes for batch in BATCHES]
    inputs = tuple(random_input(s, seed + i, dtype, device) for i, s in enumerate(shapes))
    batches = () if data is None else in_batches(data, dtype, device)
    inputs += batches
    steps = 2 * len(inputs) + len(specs)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    outputs, exact = [], []
    for x in inputs:
        outputs.append(_run_or_say(original, x, f"the original does not run on {as_text(tuple(x.shape))}"))
        advance()
        without = "the network does not run in float64, which the reference needs"
        exact.append(_run_or_say(reference, x.double(), without))
        advance()
    if not any(output.numel() for found in outputs for output in found):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    names = leaf_names(original, specs)
    sensitivity = Sensitivity(reference, names, torch.finfo(dtype).eps)
    walk = walk_through(original, reference, specs, inputs[0], sensitivity)
    turn = turn_through(original, reference, specs, inputs[0], sensitivity)
    layers = {}
    modules = dict(original.named_modules(remove_duplicate=False))
    for name, spec in specs.items():
        layer = modules[name]
        seen = [step.input for step in walk.original if step.name == name and step.input.dtype == dtype]
        real = (evidence_on(layer, spec, x) for x in seen)
        layers[name] = (random_evidence(layer, spec, seed, dtype, device), *real)
        advance()
    check_repeatable(outputs[0], run_module(original, inputs[0]), dtype)
    for x, output, wanted in zip(inputs, outputs, exact, strict=True):
        check_original(output, wanted, dtype, partial(sensitivity.outputs, x, wanted))
    if labels is not None:
        decide(outputs[-len(batches) :], labels)  # or say that a label is none of the classes
    lifting = [spec.out_rotations for spec in specs.values() if isinstance(spec, LiftingSpec)]
    return Evidence(
        shape=shape,
        fixed_size=fixed_size,
        dtype=dtype,
        inputs=inputs,
        original=tuple(outputs),
        exact=tuple(exact),
        layers=layers,
        walk=walk,
        turn=turn,
        network=original,
        reference=reference,
        seed=seed,
        specs=specs,
        sensitivity=sensitivity,
        rotations=lifting[0] if lifting and isinstance(turn, Turn) else None,
        data=batches,
        labels=labels,
    )


def _run_or_say(module: nn.Module, x: Tensor, what: str) -> Outputs:
    """The outputs of ``module``, or a VerificationError that begins with ``what`` failed."""
    try:
        return run_module(module, x)
    except FOREIGN_FAILURES as error:
        raise VerificationError(f"{what}: {first_line(error)}") from error
