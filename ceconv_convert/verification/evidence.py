"""What a candidate is judged by: inputs, the original's outputs, the referee's outputs. Gathered once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.modules import wrapper_prefix
from ceconv_convert.verification.decisions import decide
from ceconv_convert.verification.distance import distance, largest
from ceconv_convert.verification.inputs import (
    BATCHES,
    Shape,
    as_text,
    device_of,
    dtype_of,
    find_shape,
    in_batches,
    other_size,
    random_input,
    why_not,
)
from ceconv_convert.verification.layers import LayerEvidence, evidence_on, random_evidence
from ceconv_convert.verification.referee import make_original, make_referee
from ceconv_convert.verification.running import Outputs, run_module
from ceconv_convert.verification.sensitivity import Sensitivity
from ceconv_convert.verification.steps import leaf_names, record
from ceconv_convert.verification.symmetry import Turn, expect, expect_output, turn_hue
from ceconv_convert.verification.verdict import FLOOR, MULTIPLE, floor
from ceconv_convert.verification.walk import Walk, has_features

_STORED = 2**8
_ROUNDINGS = 2**16
_CAP = 0.5
"""A network amplifies roundings, of its dtype between layers and of the arithmetic within; one this many of
them, or this part of its largest output, from its float64 self is random, or cannot be judged."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the outputs of the original and of the referee.

    Attributes:
        shape: of one input, without the batch.
        fixed_size: why the network runs at this image size alone; None where it also ran at another.
        dtype: the network's.
        inputs: seeded random, batches of 1, 2 and 5, at one image size or two.
        original: the original's outputs, in eval mode.
        exact: the referee's outputs, float64.
        layers: each color-equivariant layer by itself, by name: on a random input, then on what it sees.
        walk: the original and the referee step by step, on the first input.
        turn: the first input with its hue turned, and what is expected; a text where there is no hue to turn.
        network: the original's copy in eval mode, which runs.
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
    specs: Mapping[str, KernelSpec]
    sensitivity: Sensitivity
    rotations: int | None
    data: tuple[Tensor, ...] = ()
    labels: Tensor | None = None

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
        return [*lines, f"errors: worst distance from a float64 referee; tolerance: {tolerance}"]

    def at_one_size(self) -> Evidence:
        """Without the inputs of the second image size: what a file of fixed size can be judged by."""
        kept = [index for index, x in enumerate(self.inputs) if tuple(x.shape[1:]) == self.shape]
        alike = all(tuple(x.shape[1:]) == self.shape for x in self.data)
        return replace(
            self,
            inputs=tuple(self.inputs[index] for index in kept),
            original=tuple(self.original[index] for index in kept),
            exact=tuple(self.exact[index] for index in kept),
            data=self.data if alike else (),
            labels=self.labels if alike else None,
        )


def gather(
    model: nn.Module,
    input_shape: Shape | None = None,
    *,
    seed: int = 0,
    data: Tensor | None = None,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Run ``model`` and its referee on random inputs, and on the user's. ``model`` is not changed.

    Args:
        model: the original, in any mode and floating dtype.
        input_shape: without the batch; None finds one that the network runs on.
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
    original = make_original(model)
    dtype, device = dtype_of(original), device_of(original)
    if device.type == "meta":
        raise VerificationError("the model is on the meta device and has no numbers: load its weights first")
    referee, specs = make_referee(model)
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
        without = "the network does not run in float64, which the referee needs"
        exact.append(_run_or_say(referee, x.double(), without))
        advance()
    if not any(output.numel() for found in outputs for output in found):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    names = leaf_names(original, specs)
    sensitivity = Sensitivity(referee, names, torch.finfo(dtype).eps)
    walk = _walk(original, referee, specs, inputs[0], names, sensitivity)
    turn = _turn(original, referee, specs, inputs[0], sensitivity)
    layers = {}
    modules = dict(original.named_modules(remove_duplicate=False))
    for name, spec in specs.items():
        layer = modules[name]
        seen = [step.input for step in walk.original if step.name == name and step.input.dtype == dtype]
        real = (evidence_on(layer, spec, x) for x in seen)
        layers[name] = (random_evidence(layer, spec, seed, dtype, device), *real)
        advance()
    _check_repeatable(outputs[0], run_module(original, inputs[0]), dtype)
    for x, found, wanted in zip(inputs, outputs, exact, strict=True):
        _check_original(found, wanted, dtype, partial(sensitivity.outputs, x, wanted))
    if labels is not None:
        decide(outputs[-len(batches) :], labels)  # or say that a label is none of the classes
    lifting = [spec.out_rotations for spec in specs.values() if spec.kind == "lifting"]
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


def _bound(dtype: torch.dtype) -> float:
    return min(floor(dtype, _ROUNDINGS, stored=_STORED), _CAP)


def _check_repeatable(first: Outputs, again: Outputs, dtype: torch.dtype) -> None:
    for found, repeated in zip(first, again, strict=True):
        bound = _bound(dtype) * largest(found)
        if found.shape != repeated.shape or distance(found, repeated) > bound:
            raise VerificationError(
                "the original gives another output when it runs again on the same input: it is random in "
                "eval mode, or keeps state, and nothing can be compared with it"
            )


def _check_original(
    found: Outputs, exact: Outputs, dtype: torch.dtype, moved: Callable[[], list[float]]
) -> None:
    """Else an original that is not what the referee says would widen the tolerance until anything passes."""
    for index, (output, truth) in enumerate(zip(found, exact, strict=True)):
        if not output.dtype.is_floating_point or output.shape != truth.shape:
            continue  # compared for equality; the verdict says so
        own, scale = distance(output, truth), largest(truth)
        if own > _bound(dtype) * scale and not own <= MULTIPLE * moved()[index]:
            raise VerificationError(
                f"the original is {own:.1e} from its own float64 referee, on outputs up to {scale:.1e}: "
                "too far to judge anything by it"
            )


def _walk(
    original: nn.Module,
    referee: nn.Module,
    specs: Mapping[str, KernelSpec],
    x: Tensor,
    names: Collection[str],
    sensitivity: Sensitivity,
) -> Walk:
    steps = record(original, x, names)
    exact = {step.key: step.output for step in record(referee, x.double(), names)}
    comparable = {
        step.key: exact[step.key]
        for step in steps
        if step.key in exact and exact[step.key].shape == step.output.shape and has_features(exact[step.key])
    }
    return Walk(x, steps, comparable, frozenset(specs), wrapper_prefix(original), sensitivity)


def _turn(
    original: nn.Module,
    referee: nn.Module,
    specs: Mapping[str, KernelSpec],
    x: Tensor,
    sensitivity: Sensitivity,
) -> Turn | str:
    turned = turn_hue(x, specs)
    if isinstance(turned, str):
        return turned
    found = [record(original, image, specs) for image in (x, turned)]
    truth = [record(referee, image.double(), specs) for image in (x, turned)]
    plain, after, exact, exact_after = (
        {step.key: step.output for step in steps} for steps in (*found, *truth)
    )
    layers = {
        key: expect(plain[key], after[key], exact[key], exact_after[key], specs[key[0]])
        for key in plain
        if key in after and key in exact and key in exact_after and plain[key].shape == after[key].shape
    }
    outputs = [
        *(run_module(original, image)[0] for image in (x, turned)),
        *(run_module(referee, image.double())[0] for image in (x, turned)),
    ]
    expected = expect_output(outputs[0], outputs[1], outputs[2], outputs[3])
    return Turn(x, turned, layers, expected, x.dtype, lambda: sensitivity.outputs(x, outputs[2:3])[0])
