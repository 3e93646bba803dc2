"""What candidates are judged by, gathered once: inputs with the original's and the reference's outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.verification.equivariance import HueRotation, rotate_hue_of
from ceconv_convert.verification.layers import LayerExample, example_on_signs, layer_example
from ceconv_convert.verification.memory import TooLargeError
from ceconv_convert.verification.outputs import decide
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
        shape: of one input, without the batch.
        fixed_size: why the network runs at this image size alone; None where it also ran at another.
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
        """The inputs that a file takes whose input has that shape; None is a dynamic axis.

        All where it takes none of the random ones, which then fails.
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
    shape, fixed_size, random, batches = _choose_inputs(networks, input_shape, seed, data)
    done, steps = itertools.count(1), 2 * (len(random) + len(batches)) + len(networks.specs)

    def advance() -> None:
        if progress is not None:
            progress(next(done), steps)

    names = leaf_names(networks.original, networks.specs)
    recordings: list[Recording] = []
    for x in (*random, *batches):
        for network, image, failure in (
            (networks.original, x, f"the original does not run on {as_text(tuple(x.shape))}"),
            (networks.reference, x.double(), "the network does not run in float64, as the reference needs"),
        ):
            try:
                recordings.append(record(network, image, names if len(recordings) < 2 else ()))
            except FOREIGN_FAILURES as error:
                raise VerificationError(f"{failure}: {first_line(error)}") from error
            advance()
    original, reference = recordings[::2], recordings[1::2]
    if not any(output.numel() for recording in original for output in recording.outputs):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    layers: dict[str, tuple[LayerExample, ...]] = {}
    modules = dict(networks.original.named_modules(remove_duplicate=False))
    for name, spec in networks.specs.items():
        seen = (x for (called, _), x in original[0].inputs.items() if called == name)
        real = (layer_example(modules[name], spec, x) for x in seen if x.dtype == networks.dtype)
        layers[name] = (example_on_signs(modules[name], spec, seed, random[0]), *real)
        advance()
    examples = [
        Example(x, found.outputs, exact.outputs, networks)
        for x, found, exact in zip((*random, *batches), original, reference, strict=True)
    ]
    trace = Trace(examples[0], replace(original[0], inputs={}), replace(reference[0], inputs={}), names)
    hue_rotation = rotate_hue_of(trace)
    examples[0].check_repeatable()
    for example in examples:
        example.check_original()
    user = tuple(examples[len(random) :])
    if labels is not None:
        decide([example.original for example in user], labels)  # raises where a label is none of the classes
    return Evidence(
        networks,
        shape,
        fixed_size,
        seed,
        tuple(examples[: len(random)]),
        user,
        labels,
        layers,
        trace,
        hue_rotation,
    )


def _choose_inputs(
    networks: Networks, given: Shape | None, seed: int, data: Tensor | None
) -> tuple[Shape, str | None, list[Tensor], tuple[Tensor, ...]]:
    """The shape of one input, why the image size is fixed, the random inputs and the user's."""
    model, dtype, device = networks.original, networks.dtype, networks.device
    first = next(iter(networks.specs.values()), None)
    batches: tuple[Tensor, ...] = ()
    if data is not None:
        taken = find_shape(model, tuple(data.shape[1:]), first)
        given = given or taken
        batches = in_batches(data.reshape(len(data), *taken), dtype, device)
    shape = find_shape(model, given, first)
    try:
        fixed_size = failure_on(model, other_size(shape))
    except TooLargeError as error:
        fixed_size = first_line(error)
    sizes = [shape] if fixed_size is not None else [shape, other_size(shape)]
    shapes = [(batch, *size) for size in sizes for batch in BATCHES]
    return (
        shape,
        fixed_size,
        [random_input(s, seed + i, dtype, device) for i, s in enumerate(shapes)],
        batches,
    )
