"""Inputs to judge by: shapes that the network runs on, and seeded random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ceconv_convert.errors import FOREIGN_FAILURES, InputShapeError, first_line
from ceconv_convert.kernel.spec import KernelSpec
from ceconv_convert.verification.memory import BoundedMemory, TooLargeError

USUAL_SIZES = (32, 28, 64, 224)
"""Image sizes tried, in this order, where none is given."""
BATCHES = (1, 2, 5)
"""Batch sizes judged."""

Shape = tuple[int, ...]
"""Without the batch: channels, height, width; for a network of features rotations before the height."""


def find_shape(model: nn.Module, given: Shape | None, first: KernelSpec | None) -> Shape:
    """An input shape on which ``model`` runs: the one given, or the first usual one that does.

    Args:
        model: in eval mode.
        given: what the user said.
        first: the network's first color-equivariant layer; where it is a hidden one, it may take features.

    Raises:
        InputShapeError: where the network runs on none of them, or takes too much memory.
    """
    shapes = [given] if given is not None else list(_usual_shapes(first))
    first_problem = ""
    for shape in shapes:
        try:
            _run(model, shape)
        except TooLargeError:
            raise  # on a larger shape it takes more
        except FOREIGN_FAILURES as error:
            first_problem = first_problem or first_line(error)
        else:
            return shape
    if given is not None:
        raise InputShapeError(
            f"the network does not run on inputs of shape {as_text(given)}: {first_problem}"
        )
    tried = ", ".join(as_text(shape) for shape in shapes)
    raise InputShapeError(
        f"the network runs on none of the usual input shapes ({tried}): "
        f"say which with --input-shape; the first answered: {first_problem}"
    )


def other_size(shape: Shape) -> Shape:
    """A second image size: 8 rows and 4 columns more, so that height and width cannot be mixed up.

    >>> other_size((3, 28, 28))
    (3, 36, 32)
    """
    return (*shape[:-2], shape[-2] + 8, shape[-1] + 4)


def why_not(model: nn.Module, shape: Shape) -> str | None:
    """None where ``model`` runs on two images of zeros, in bounded memory; else what it says."""
    try:
        _run(model, shape)
    except FOREIGN_FAILURES as error:
        return first_line(error)
    return None


def check_memory(model: nn.Module, shape: Shape) -> None:
    """Raise InputShapeError where ``model`` would take too much memory on ``shape``, if it runs at all."""
    try:
        _run(model, shape)
    except TooLargeError:
        raise
    except FOREIGN_FAILURES:
        return


def _run(model: nn.Module, shape: Shape) -> None:
    x = torch.zeros(2, *shape, dtype=dtype_of(model), device=device_of(model))
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    try:
        with torch.no_grad(), BoundedMemory(x, held):
            model(x)
    except TooLargeError as error:
        raise TooLargeError(f"on inputs of shape {as_text(shape)} the network {error}") from error


def random_input(shape: Shape, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal numbers, the same on every device, as normalised images have."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(dtype).to(device)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that ``model`` computes in: that of its first floating-point parameter."""
    dtypes = (parameter.dtype for parameter in model.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def as_text(shape: Shape) -> str:
    """``(3, 28, 28)`` as people write it: 3×28×28."""
    return "×".join(map(str, shape))


def _usual_shapes(first: KernelSpec | None) -> Iterator[Shape]:
    for size in USUAL_SIZES:
        yield (3, size, size)
    if first is not None and first.kind == "cyclic":
        for size in USUAL_SIZES:
            yield (first.in_channels, first.in_rotations, size, size)
