"""What candidates are judged by, gathered once: inputs with the original's and the reference's outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import ge

import torch
from torch import Tensor, nn

from ceconv_convert.conversion.find import FoundLayer, find_layers
from ceconv_convert.errors import FOREIGN_FAILURES, VerificationError, first_line
from ceconv_convert.verification.decisions import decide
from ceconv_convert.verification.equivariance import HueRotation, rotate_hue
from ceconv_convert.verification.layers import LayerExample, example_on_signs, layer_example
from ceconv_convert.verification.memory import TooLargeError
from ceconv_convert.verification.outputs import leaf_names
from ceconv_convert.verification.reference import Example, Networks, NotRunningError, make_networks
from ceconv_convert.verification.shapes import (
    Data,
    Shape,
    as_text,
    device_of,
    find_shape,
    fits,
    in_batches,
    other_size,
    random_input,
    smaller_sizes,
)
from ceconv_convert.verification.tolerance import ARITHMETIC_EPS, MULTIPLE
from ceconv_convert.verification.trace import Trace

Progress = Callable[[int, int], None]
_BATCHES = (1, 2, 3)
"""Batch sizes of the random inputs."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Random inputs with what both networks give on them, each made once."""

    networks: Networks
    seed: int
    _made: dict[Shape, Example | str] = field(default_factory=dict)

    def input(self, shape: Shape) -> Tensor:
        """The random input of that shape, batch first."""
        device = device_of(self.networks.original)
        return random_input(shape, self.seed + shape[0], self.networks.dtype, device)

    def at(self, shape: Shape, names: Collection[str] = ()) -> Example | str:
        """The example of that shape, batch first, or why the network does not run on it.

        The steps ``names`` are recorded with it. TooLargeError where it would take too much memory.
        """
        made = self._made.get(shape)
        if made is None or (names and isinstance(made, Example) and not made.original.steps):
            try:
                made = self.networks.run(self.input(shape), names, bounded=not self._is_safe(shape))
            except NotRunningError as error:
                made = error.reason
            except RuntimeError as error:  # there is no memory for the input itself
                made = first_line(error)
            self._made[shape] = made
        return made

    def _is_safe(self, shape: Shape) -> bool:
        """Whether the network ran on inputs that are larger in every axis: memory grows with them."""
        ran = [found for found, made in self._made.items() if isinstance(made, Example)]
        return any(len(found) == len(shape) and all(map(ge, found, shape)) for found in ran)

    def failure(self, shape: Shape, names: Collection[str] = ()) -> str | None:
        """Why the network does not run on that shape, or why not in the memory that it may take; or None."""
        try:
            made = self.at(shape, names)
        except TooLargeError as error:
            return first_line(error)
        return made if isinstance(made, str) else None

    def running(self, *shapes: Shape) -> Iterator[Example]:
        """Those of ``shapes`` on which the network runs."""
        for shape in shapes:
            with suppress(*FOREIGN_FAILURES):  # of the reference, or for too much memory
                made = self.at(shape)
                if isinstance(made, Example):
                    yield made


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the outputs of the original and of the reference: random ones, and the ``user``'s.

    One input has ``shape``, as the first random one; ``fixed_size`` is why the network runs at this image
    size alone, or None. What does not need that size is judged on smaller images, of the shape ``small``:
    the layers, ``trace``, and ``hue_rotation``, or why the input has no hue.
    """

    examples: Examples
    shape: Shape
    small: Shape
    fixed_size: str | None
    random: tuple[Example, ...]
    images: Data | None  # the user's inputs
    user: tuple[Example, ...]  # in batches
    labels: Tensor | None
    trace: Trace
    hue_rotation: HueRotation | str

    @property
    def networks(self) -> Networks:
        return self.examples.networks

    @cached_property
    def layers(self) -> Mapping[str, tuple[LayerExample, ...]]:
        """The color-equivariant layers by themselves, on random signs and on what they see."""
        return _layer_examples(self.trace.example, self.examples.seed)

    @property
    def data(self) -> tuple[Tensor, ...]:
        """The user's inputs, in batches, all at once."""
        return tuple(example.input for example in self.user)

    @property
    def export_example(self) -> Tensor:
        """Two images of the network's size, to export it with."""
        return self.examples.input((2, *self.shape))

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return self.networks.dtype

    def explain(self) -> list[str]:
        """What verdicts rest on: the inputs, and where the tolerance comes from."""
        lines = [f"inputs: {', '.join(as_text(example.input.shape) for example in self.random)}"]
        if self.images is not None and self.user:
            lines.append(f"and {self.images.shape[0]} of the user's, {as_text(self.user[0].input.shape[1:])}")
        if self.labels is not None:
            decided = decide([example.original.outputs for example in self.user], self.labels)
            lines += [f"no accuracy: {decided}"] if isinstance(decided, str) else []
        if self.fixed_size is not None:
            lines.append(f"one image size alone, since the network takes no other: {self.fixed_size}")
        tolerance = f"{MULTIPLE} × the original's own error + {ARITHMETIC_EPS + 1} eps of the largest output"
        return [*lines, f"errors: worst distance from a float64 reference; tolerance: {tolerance}"]

    def fitting(self, declared: Sequence[int | None]) -> Evidence:
        """The inputs that a file takes whose input has that shape; None is a dynamic axis.

        A file that takes no other size, or also one batch alone, is judged at those in everything. All inputs
        where a file takes none of the random ones, which then fails.
        """
        if fits(self.shape, declared[1:]) and not fits(other_size(self.shape), declared[1:]):
            return self._at_full_size(declared[0])._fitting(declared)
        return self._fitting(declared)

    def _at_full_size(self, batch: int | None) -> Evidence:
        first = (batch or 1, *self.shape)
        shapes = [first] if batch else _random_shapes(self.shape, self.shape, None)
        random = tuple(_random_example(self.examples, shape, first) for shape in shapes)
        if first == (1, *self.small):
            return replace(self, random=random)
        trace, rotation = Trace(random[0]), rotate_hue(random[0])
        return replace(self, small=self.shape, random=random, trace=trace, hue_rotation=rotation)

    def _fitting(self, declared: Sequence[int | None]) -> Evidence:
        random = tuple(example for example in self.random if fits(example.input.shape, declared))
        if not random:
            return self
        if self.images is None or not self.user:
            return replace(self, random=random)
        shape, batch = self.user[0].input.shape[1:], declared[0]
        if not fits(shape, declared[1:]) or self.images.shape[0] < (batch or 1):
            return replace(self, random=random, user=(), labels=None)
        user, labels = self.user, self.labels
        if batch is not None:  # whole batches alone
            batches = in_batches(self.images, shape, self.dtype, device_of(self.networks.original), batch)
            whole = self.images.shape[0] // batch
            user = tuple(map(self.networks.run_read, batches[:whole]))
            labels = None if labels is None else labels[: whole * batch]
        return replace(self, random=random, user=user, labels=labels)


def gather(
    model: nn.Module,
    input_shape: Shape | None = None,
    *,
    found: Sequence[FoundLayer] | None = None,
    seed: int = 0,
    data: Data | None = None,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Run ``model`` and its reference on random inputs, and on the user's. ``model`` is not changed.

    It has any mode and floating dtype. Without ``input_shape`` one on which it runs is found, and without
    ``found`` its layers. Further inputs are ``data``, ``[count, …]``, which are read batch by batch,
    their classes ``labels``, ``[count]``.
    ``progress`` is called with inputs done and inputs in all.

    Raises:
        InputShapeError: where the network does not run.
        VerificationError: where it has no numbers or no outputs, does not repeat itself, does not run in
            float64, or is far from what it computes there.
        UnreadableInputError: where its dtype does not hold ``data``, or a label is none of its classes.
    """
    networks = make_networks(model, find_layers(model) if found is None else found)
    examples = Examples(networks, seed)
    shape, batches = _choose_inputs(examples, input_shape, data)
    small, fixed_size = _small_shape(examples, shape)
    shapes = _random_shapes(shape, small, other_size(small) if fixed_size is None else None)
    runs = [partial(_random_example, examples, each, (1, *small)) for each in shapes]
    runs += [partial(networks.run_read, batch) for batch in batches]
    everything: list[Example] = []
    for run in runs:
        everything.append(run())
        if progress is not None:
            progress(len(everything), len(runs))
    random, user = tuple(everything[: len(shapes)]), tuple(everything[len(shapes) :])
    if not any(output.numel() for example in everything for output in example.original.outputs):
        raise VerificationError("the original gives no numbers, and nothing can be compared with it")
    traced = next(example for example in random if example.input.shape == (1, *small))
    hue = rotate_hue(traced)
    random[-2].check_repeatable()  # two images
    for example in everything:
        example.check_original()
    if labels is not None:
        decide([example.original.outputs for example in user], labels)  # raises where one is no class
    return Evidence(examples, shape, small, fixed_size, random, data, user, labels, Trace(traced), hue)


def _choose_inputs(
    examples: Examples, given: Shape | None, data: Data | None
) -> tuple[Shape, list[Callable[[], Tensor]]]:
    """The shape of one input, and the user's in batches."""
    networks = examples.networks
    first = next(iter(networks.specs.values()), None)
    batches: list[Callable[[], Tensor]] = []

    def failure(shape: Shape) -> str | None:
        made = examples.at((1, *shape), _steps(networks) if smaller_sizes(shape) == [shape] else ())
        return made if isinstance(made, str) else None

    if data is not None:
        taken = find_shape(failure, tuple(data.shape[1:]), first)
        given = given or taken
        batches = in_batches(data, taken, networks.dtype, device_of(networks.original))
    return find_shape(failure, given, first), batches


def _small_shape(examples: Examples, shape: Shape) -> tuple[Shape, str | None]:
    """A shape of smaller images that the network takes, of other sizes too; and why it does not, or None."""
    problem = None
    for small in smaller_sizes(shape):
        problem = examples.failure((1, *small), _steps(examples.networks))
        problem = problem or examples.failure((_BATCHES[-1], *other_size(small)))
        if problem is None:
            return small, None
    return shape, problem


def _random_shapes(shape: Shape, small: Shape, other: Shape | None) -> list[Shape]:
    """One image of the network's size, and batches of smaller ones, of which one has another size."""
    one, two, three = _BATCHES
    shapes = [(one, *shape), (one, *small), (two, *small), (three, *(other or small))]
    return list(dict.fromkeys(shapes))


def _random_example(examples: Examples, shape: Shape, traced: Shape) -> Example:
    """With the steps recorded where it is of the shape ``traced``."""
    made = examples.at(shape, _steps(examples.networks) if shape == traced else ())
    if isinstance(made, str):
        raise NotRunningError(as_text(shape), made)
    return made


def _steps(networks: Networks) -> list[str]:
    return leaf_names(networks.original, networks.specs)


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
