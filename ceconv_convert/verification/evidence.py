"""What candidates are judged by, gathered once: inputs with the original's and the reference's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.verification.decisions import decide
from ceconv_convert.verification.equivariance import HueRotation, rotate_hue
from ceconv_convert.verification.layers import LayerExample, example_on_signs, layer_example
from ceconv_convert.verification.memory import TooLargeError
from ceconv_convert.verification.outputs import leaf_names
from ceconv_convert.verification.reference import Example, Networks, make_networks
from ceconv_convert.verification.shapes import (
    BATCHES,
    Shape,
    as_text,
    device_of,
    failure_on,
    find_shape,
    fits,
    in_batches,
    other_size,
    random_input,
)
from ceconv_convert.verification.tolerance import ARITHMETIC_EPS, MULTIPLE
from ceconv_convert.verification.trace import Trace

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the outputs of the original and of the reference: random ones, and the ``user``'s.

    One input has ``shape``; ``fixed_size`` is why the network runs at this image size alone, or None.
    ``layers`` are the color-equivariant layers by themselves, on random signs and on what they see. ``trace``
    and ``hue_rotation`` are of the first input; a text says why it has no hue.
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
    def data(self) -> tuple[Tensor, ...]:
        """The user's inputs, in batches."""
        return tuple(example.input for example in self.user)

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return self.networks.dtype

    def explain(self) -> list[str]:
        """What verdicts rest on: the inputs, and where the tolerance comes from."""
        lines = [f"inputs: {', '.join(as_text(example.input.shape) for example in self.random)}"]
        if self.user:
            count = sum(map(len, self.data))
            lines.append(f"and {count} of the user's, {as_text(self.data[0].shape[1:])}")
        if self.labels is not None:
            decided = decide([example.original.outputs for example in self.user], self.labels)
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
                x = random_input(shape, self.seed, self.dtype, device_of(self.networks.original))
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

    It has any mode and floating dtype. Without ``input_shape`` one on which it runs is found, and without
    ``found`` its layers. Further inputs are ``data``, ``[count, …]``, their classes ``labels``, ``[count]``.
    ``progress`` is called with inputs done and inputs in all.

    Raises:
        InputShapeError: where the network does not run.
        VerificationError: where it has no numbers or no outputs, does not repeat itself, does not run in
            float64, or is far from what it computes there.
        UnreadableInputError: where its dtype does not hold ``data``, or a label is none of its classes.
    """
    networks = make_networks(model, find_layers(model) if found is None else found)
    shape, fixed_size, random, user = _choose_inputs(networks, input_shape, seed, data)
    inputs, names = (*random, *user), leaf_names(networks.original, networks.specs)
    examples: list[Example] = []
    for x in inputs:
        examples.append(networks.run(x, () if examples else names))
        if progress is not None:
            progress(len(examples), len(inputs))
    if not any(output.numel() for example in examples for output in example.original.outputs):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    layers = _layer_examples(examples[0], seed)
    for recording in (examples[0].original, examples[0].reference):
        recording.inputs.clear()  # they are large, and nobody else needs them
    hue_rotation = rotate_hue(examples[0])
    examples[0].check_repeatable()
    for example in examples:
        example.check_original()
    by_seed, by_user = tuple(examples[: len(random)]), tuple(examples[len(random) :])
    if labels is not None:
        decide([example.original.outputs for example in by_user], labels)  # raises where one is no class
    return Evidence(
        networks, shape, fixed_size, seed, by_seed, by_user, labels, layers, Trace(examples[0]), hue_rotation
    )


def _choose_inputs(
    networks: Networks, given: Shape | None, seed: int, data: Tensor | None
) -> tuple[Shape, str | None, list[Tensor], tuple[Tensor, ...]]:
    """The shape of one input, why the image size is fixed, the random inputs and the user's."""
    model, dtype, device = networks.original, networks.dtype, device_of(networks.original)
    first = next(iter(networks.specs.values()), None)
    user: tuple[Tensor, ...] = ()
    if data is not None:
        taken = find_shape(model, tuple(data.shape[1:]), first)
        given = given or taken
        user = in_batches(data.reshape(len(data), *taken), dtype, device)
    shape = find_shape(model, given, first)
    try:
        fixed_size = failure_on(model, other_size(shape))
    except TooLargeError as error:
        fixed_size = first_line(error)
    sizes = [shape] if fixed_size is not None else [shape, other_size(shape)]
    shapes = [(batch, *size) for size in sizes for batch in BATCHES]
    return shape, fixed_size, [random_input(s, seed + i, dtype, device) for i, s in enumerate(shapes)], user


def _layer_examples(example: Example, seed: int) -> dict[str, tuple[LayerExample, ...]]:
    """Each color-equivariant layer on signs, then on what it sees in each of its calls."""
    networks, inputs = example.networks, example.original.inputs.items()
    modules = dict(networks.original.named_modules(remove_duplicate=False))
    layers = {}
    for name, spec in networks.specs.items():
        seen = [x for (called, _), x in inputs if called == name and x.dtype == networks.dtype]
        real = (layer_example(modules[name], spec, x) for x in seen)
        layers[name] = (example_on_signs(modules[name], spec, seed, example.input), *real)
    return layers
