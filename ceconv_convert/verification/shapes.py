"""Input shapes that a network runs on, and seeded random inputs of them."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, InputShapeError, UnreadableInputError, first_line
from ceconv_convert.kernel.spec import KernelSpec, LiftingSpec
from ceconv_convert.verification.memory import BoundedMemory, TooLargeError

USUAL_SIZES = (32, 28, 64, 224)
"""Image sizes tried, in this order, where none is given; from the largest for a first layer with a stride."""
_SMALL_SIZES = (64, 96, 128)
"""Image sizes that larger networks are judged at, if they run there, in all that does not need their own."""
_USER_BATCH = 32
_COLORS = 3
_IMAGE, _FEATURES = 3, 4
"""Dimensions of one input."""

Shape = tuple[int, ...]
"""Without the batch: channels, height, width; for a network of features rotations before the height."""


def find_shape(
    failure: Callable[[Shape], str | None], given: Shape | None, first: KernelSpec | None
) -> Shape:
    """An input shape on which a network runs: the given one, or the first usual one that does.

    ``failure`` is why it does not run on a shape, or None. ``first`` is the network's first color-equivariant
    layer; where it is a hidden one, it may take features.

    Raises:
        InputShapeError: where the network runs on none of them, or takes too much memory.
    """
    sizes = USUAL_SIZES if first is None or first.stride == (1, 1) else sorted(USUAL_SIZES, reverse=True)
    shapes: list[Shape] = [(_COLORS, size, size) for size in sizes]
    if first is not None and not isinstance(first, LiftingSpec):
        shapes += [first.input_shape(1, (size, size))[1:] for size in sizes]
    if given is not None:
        shapes = [without_batch(given, first)]
    problems = []
    for shape in shapes:
        problem = failure(shape)
        if problem is None:
            return shape
        problems.append(problem)
    if given is None:
        raise InputShapeError(
            f"the network runs on none of the usual input shapes ({', '.join(map(as_text, shapes))}): "
            f"say which with --input-shape; the first answered: {problems[0]}"
        )
    order = "; channels come first, as in 3,224,224" if shape[0] != _COLORS in shape[1:] else ""
    if first is not None and first.group_major and shape[0] == _COLORS:
        copies, count = first.in_rotations * first.in_channels // _COLORS, first.input_shape(1, ())[1]
        order = f"; its input is {copies} shifted copies of an image, {count} channels, made outside of it"
    raise InputShapeError(
        f"the network does not run on inputs of shape {as_text(shape)}: {problems[0]}{order}"
    )


def without_batch(given: Sequence[int], first: KernelSpec | None) -> Shape:
    """The shape of one input, of what may begin with a batch of 1.

    A network whose first color-equivariant layer is a lifting layer takes images, ``C,H,W``; one that begins
    with a hidden layer takes features, ``C,N,H,W``, or images. Without such a layer four numbers that begin
    with 1,3 are of images.

    Raises:
        InputShapeError: where it is no shape, or that of another batch.

    >>> without_batch([1, 3, 224, 224], None)
    (3, 224, 224)
    """
    try:
        shape = tuple(map(operator.index, given))
    except TypeError:
        shape = ()
    if isinstance(given, str) or len(shape) not in (_IMAGE, _FEATURES, _FEATURES + 1) or min(shape) < 1:
        raise InputShapeError(
            f"{given!r} is not an input shape: give channels, height and width, as in 3,224,224"
        )
    # A network that is converted already does not tell what it begins with.
    images = shape[:-2] == (1, _COLORS) if first is None else isinstance(first, LiftingSpec)
    dimensions = _IMAGE if images or (first is not None and first.group_major) else _FEATURES
    if len(shape) <= dimensions:
        return shape
    if len(shape) == dimensions + 1 and shape[0] == 1:
        return shape[1:]
    if images and first is not None and shape[:2] == (first.in_channels, first.in_rotations):
        return shape  # features of one rotation
    example = "an image, as in 3,224,224" if images else "features, as in 16,3,32,32"
    raise InputShapeError(
        f"{as_text(shape)} is not the shape of one input: give it without the batch, for {example}"
    )


def static_shape(given: Shape | None, readings: Iterable[object]) -> tuple[int, Shape | None]:
    """The batch of a file of fixed shape, 1 where none is given, and the shape of one input.

    ``readings`` are those of the network's layers.

    >>> static_shape((8, 3, 224, 224), []), static_shape((3, 224, 224), [])
    ((8, (3, 224, 224)), (1, (3, 224, 224)))
    """
    if given is None:
        return 1, None
    first = next((reading for reading in readings if isinstance(reading, KernelSpec)), None)
    images = first is None or isinstance(first, LiftingSpec)
    if len(given) == (_IMAGE if images else _FEATURES) + 1:
        return given[0], tuple(given[1:])
    return 1, without_batch(given, first)


def smaller_sizes(shape: Shape) -> list[Shape]:
    """Smaller images to judge a network at, in the order to try them; last those of ``shape`` itself.

    >>> smaller_sizes((3, 32, 32)), smaller_sizes((3, 80, 224))
    ([(3, 32, 32)], [(3, 64, 64), (3, 80, 96), (3, 80, 128), (3, 80, 224)])
    """
    smaller = ((*shape[:-2], *(min(side, size) for side in shape[-2:])) for size in _SMALL_SIZES)
    return list(dict.fromkeys((*smaller, shape)))


def other_size(shape: Shape) -> Shape:
    """A second image size: 8 rows and 4 columns more, so that height and width cannot be mixed up."""
    return (*shape[:-2], shape[-2] + 8, shape[-1] + 4)


def odd_sizes(shape: Shape) -> tuple[Shape, Shape]:
    """Two more image sizes, odd and not square: about half as large, and a little larger.

    Networks that look at whether a size is even, or small, do something else there; they may not run.

    >>> odd_sizes((3, 32, 32))
    ((3, 17, 19), (3, 33, 35))
    """
    *rest, rows, columns = shape
    half, larger = (rows // 2 | 1, (columns // 2 + 2) | 1), ((rows + 1) | 1, (columns + 3) | 1)
    return (*rest, *half), (*rest, *larger)


def fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    """Whether a file with an input of shape ``declared`` takes one of ``shape``; None is a dynamic axis."""
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(axis in (None, size) for size, axis in pairs)


@contextmanager
def bounded_memory(model: nn.Module, x: Tensor) -> Iterator[None]:
    """While ``model`` runs on ``x``, an operator that would take too much memory raises TooLargeError."""
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    try:
        with BoundedMemory(x, held):
            yield
    except TooLargeError as error:
        raise TooLargeError(f"on inputs of shape {as_text(x.shape[1:])} the network {error}") from error


def failure_on(model: nn.Module, shape: Shape) -> str | None:
    """Why ``model`` does not run on two inputs of zeros, or None; TooLargeError where memory is why."""
    try:
        x = torch.zeros(2, *shape, dtype=dtype_of(model), device=device_of(model))
        with torch.no_grad(), bounded_memory(model, x):
            model(x)
    except TooLargeError:
        raise
    except FOREIGN_FAILURES as error:
        return first_line(error)
    return None


def random_input(shape: Shape, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal numbers, the same on every device, as normalized images have."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(dtype).to(device)


class Data(Protocol):
    """Inputs that may be read one by one: a tensor ``[count, …]``, or what gives each when it is taken."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def in_batches(
    data: Data, shape: Shape, dtype: torch.dtype, device: torch.device, size: int = _USER_BATCH
) -> list[Callable[[], Tensor]]:
    """What reads each batch of the user's inputs as the network takes them, ``shape`` each.

    It raises UnreadableInputError where they are beyond the network's dtype.
    """

    def read(start: int) -> Tensor:
        rows = [data[index] for index in range(start, min(start + size, data.shape[0]))]
        batch = torch.stack(rows).reshape(-1, *shape)
        found = batch.to(device, dtype)
        if not bool(torch.isfinite(found).all()):
            most = float(batch.abs().max())
            raise UnreadableInputError(
                f"inputs reach {most:.1e}, which {dtype}, the network's, does not hold"
            )
        return found

    return [partial(read, start) for start in range(0, data.shape[0], size)]


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that ``model`` computes in: that of its first floating-point parameter."""
    dtypes = (parameter.dtype for parameter in model.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def as_text(shape: Sequence[int]) -> str:
    """``(3, 28, 28)`` as people write it: 3×28×28."""
    return "×".join(map(str, shape))
