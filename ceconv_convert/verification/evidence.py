"""What candidates are judged by, gathered once: inputs with the original's and the reference's outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.verification.decisions import decide
from ceconv_convert.verification.equivariance import HueRotation, rotate_hue_of
from ceconv_convert.verification.layers import LayerExample, example_on_signs, layer_example
from ceconv_convert.verification.memory import TooLargeError
from ceconv_convert.verification.outputs import Outputs, run_module
from ceconv_convert.verification.reference import Example, Networks, make_networks
from ceconv_convert.verification.shapes import (
    BATCHES,
    Shape,
    as_text,
    failure_on,
    find_shape,
    fits,
    in_batches,
    other_size,
    random_input,
)
from ceconv_convert.verification.tolerance import ARITHMETIC_EPS, MULTIPLE
from ceconv_convert.verification.trace import Recording, Trace, leaf_names, record

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the outputs of the original and of the reference.

    Attributes:
        networks: the original and the reference.
        shape: of one input, without the batch.
        fixed_size: why the network runs at this image size alone; None where it also ran at another.
        seed: of the random inputs.
        random: random inputs, in batches of 1, 2 and 5, at one image size or two.
        user: the user's inputs, in batches.
        labels: the classes of the user's inputs, where they are known.
        layers: each color-equivariant layer by itself, by name: on random signs, then on what it sees.
        trace: the features after each step, on the first input.
        hue_rotation: the first input with its hue rotated; a text where it has none.
    """

    networks: Networks
    shape: Shape
    fixed_size: str | None
    seed: int
    random: tuple[Example, ...]
    user: tuple[Example, ...]
    labels: Tensor | None
    layers: Mapping[str, tuple[LayerExample, ...]]
    trace: Trace
    hue_rotation: HueRotation | str
    _further: dict[Shape, Example | None] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Random ones, then the user's."""
        return tuple(example.input for example in (*self.random, *self.user))

    @property
    def data(self) -> tuple[Tensor, ...]:
        """The user's inputs, in batches."""
        return tuple(example.input for example in self.user)

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return self.networks.dtype

    def run_original(self, x: Tensor) -> Outputs:
        """The original on any input."""
        return run_module(self.networks.original, x)

    def explain(self) -> list[str]:
        """What verdicts rest on: the inputs, and where the tolerance comes from."""
        lines = [f"inputs: {', '.join(as_text(tuple(example.input.shape)) for example in self.random)}"]
        if self.user:
            count = sum(map(len, self.data))
            lines.append(f"and {count} of the user's, {as_text(tuple(self.data[0].shape[1:]))}")
        if self.labels is not None:
            decided = decide([example.original for example in self.user], self.labels)
            lines += [f"no accuracy: {decided}"] if isinstance(decided, str) else []
        if self.fixed_size is not None:
            lines.append(f"one image size alone, since the network takes no other: {self.fixed_size}")
        tolerance = f"{MULTIPLE} × the original's own error + {ARITHMETIC_EPS + 1} eps of the largest output"
        return [*lines, f"errors: worst distance from a float64 reference; tolerance: {tolerance}"]

    def fitting(self, declared: Sequence[int | None]) -> Evidence:
        """The inputs that a file takes; all where it takes none of the random ones, which then fails.

        Args:
            declared: the shape of the file's input; None is a dynamic axis.
        """
        random = tuple(example for example in self.random if fits(example.input.shape, declared))
        if not random:
            return self
        batches = self.data
        if batches and declared[0] is not None:
            batches = torch.split(torch.cat(batches), declared[0])
        if not all(fits(batch.shape, declared) for batch in batches):
            return replace(self, random=random, user=(), labels=None)
        user = self.user if declared[0] is None else tuple(map(self.networks.run, batches))
        return replace(self, random=random, user=user)

    def example_at(self, shape: Shape) -> Example | None:
        """A random input of that shape, batch first; None where the network does not run on it."""
        if shape not in self._further:
            try:
                x = random_input(shape, self.seed, self.dtype, self.networks.device)
                self._further[shape] = self.networks.run(x)
            except FOREIGN_FAILURES:
                self._further[shape] = None
        return self._further[shape]


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
        VerificationError: where it has no numbers or no outputs, does not repeat itself, does not run in
            float64, or is far from what it computes there.
        UnreadableInputError: where its dtype does not hold ``data``, or a label is none of its classes.
    """
    networks = make_networks(model, find_layers(model) if found is None else found)
    original, specs, dtype = networks.original, networks.specs, networks.dtype
    first_layer = next(iter(specs.values()), None)
    if data is not None:
        taken = find_shape(original, tuple(data.shape[1:]), first_layer)
        data, input_shape = data.reshape(len(data), *taken), input_shape or taken
    shape = find_shape(original, input_shape, first_layer)
    fixed_size = _failure_at_other_size(original, shape)
    sizes = [shape] if fixed_size is not None else [shape, other_size(shape)]
    shapes = [(batch, *size) for size in sizes for batch in BATCHES]
    inputs = [random_input(s, seed + i, dtype, networks.device) for i, s in enumerate(shapes)]
    inputs += () if data is None else in_batches(data, dtype, networks.device)
    done, steps = itertools.count(1), 2 * len(inputs) + len(specs)

    def advance() -> None:
        if progress is not None:
            progress(next(done), steps)

    names = leaf_names(original, specs)
    examples: list[Example] = []
    recordings: list[Recording] = []
    for x in inputs:
        recorded = () if examples else names
        for network, image, failure in (
            (original, x, f"the original does not run on {as_text(tuple(x.shape))}"),
            (
                networks.reference,
                x.double(),
                "the network does not run in float64, which the reference needs",
            ),
        ):
            try:
                recordings.append(record(network, image, recorded))
            except FOREIGN_FAILURES as error:
                raise VerificationError(f"{failure}: {first_line(error)}") from error
            advance()
        examples.append(Example(x, recordings[-2].outputs, recordings[-1].outputs, networks))
    if not any(output.numel() for example in examples for output in example.original):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    layers: dict[str, tuple[LayerExample, ...]] = {}
    modules = dict(original.named_modules(remove_duplicate=False))
    for name, spec in specs.items():
        seen = (x for (called, _), x in recordings[0].inputs.items() if called == name)
        real = (layer_example(modules[name], spec, x) for x in seen if x.dtype == dtype)
        layers[name] = (example_on_signs(modules[name], spec, seed, inputs[0]), *real)
        advance()
    first, reference = (replace(recording, inputs={}) for recording in recordings[:2])
    trace = Trace(examples[0], first, reference, names)
    hue_rotation = rotate_hue_of(trace)
    examples[0].check_repeatable()
    for example in examples:
        example.check_original()
    random, user = tuple(examples[: len(shapes)]), tuple(examples[len(shapes) :])
    if labels is not None:
        decide([example.original for example in user], labels)  # raises where a label is none of the classes
    return Evidence(networks, shape, fixed_size, seed, random, user, labels, layers, trace, hue_rotation)


def _failure_at_other_size(model: nn.Module, shape: Shape) -> str | None:
    try:
        return failure_on(model, other_size(shape))
    except TooLargeError as error:
        return first_line(error)
