"""Arrays out of files that may be damaged, or claim what they do not hold.

Headers are checked before any memory is taken.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ceconv_convert.errors import FOREIGN_FAILURES, ConversionError, UnreadableInputError, first_line
from ceconv_convert.files.safetensors_io import open_stored

Array = np.ndarray[Any, Any]

LIMIT = 2**32
"""Bytes of numbers that are read, as they lie in memory."""
_CHUNK = 2**24
_SINGLE = np.dtype(np.float32).itemsize
_NUMBERS = "biuf"
"""Kinds of dtypes: bools, integers and floating point."""


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Whatever numpy, zipfile or Pillow raise on a file's bytes, as one sentence that names it."""
    try:
        yield
    except ConversionError:
        raise
    except FOREIGN_FAILURES as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UnreadableInputError(f"{path} cannot be read as inputs: {reason}") from error


def check_fits(shape: Sequence[int], size: int, path: Path) -> None:
    """Raise UnreadableInputError where numbers of ``size`` bytes in that shape are more than are read."""
    total = math.prod(shape) * max(size, _SINGLE)
    if total > LIMIT:
        raise UnreadableInputError(
            f"{path} has numbers of shape {list(shape)}, {total / 2**30:.1f} GiB in memory, and "
            f"{LIMIT // 2**30} GiB are the most that is read: give fewer inputs, or smaller ones"
        )


def read_npy(path: Path) -> Array:
    """The array of a ``.npy`` file."""
    with path.open("rb") as file:
        return _read_array(file, path.stat().st_size, path)


def read_npz(path: Path, wanted: Sequence[Sequence[str]]) -> tuple[list[Array | None], list[str]]:
    """The first array of each choice of names that the file has, and the names of all."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def read(name: str) -> Array:
            with archive.open(members[name]) as file:
                return _read_array(file, members[name].file_size, path)

        chosen = _choose(wanted, members)
        return [None if name is None else read(name) for name in chosen], list(members)


def read_safetensors(path: Path, wanted: Sequence[Sequence[str]]) -> tuple[list[Array | None], list[str]]:
    """The first tensor of each choice of names that the file has, and the names of all."""
    tensors = open_stored(path).tensors

    def read(name: str) -> Array:
        stored = tensors[name]
        check_fits(stored.shape, stored.dtype.itemsize, path)
        tensor = stored.read()
        known = not tensor.dtype.is_floating_point or tensor.element_size() >= _SINGLE
        array: Array = (tensor if known else tensor.float()).numpy()  # numpy has no bfloat16 and no float8
        return _checked(array, path)

    chosen = _choose(wanted, tensors)
    return [None if name is None else read(name) for name in chosen], list(tensors)


def _choose(wanted: Sequence[Sequence[str]], found: Any) -> list[str | None]:
    return [next((name for name in names if name in found), None) for names in wanted]


def _read_array(file: IO[bytes], size: int, path: Path) -> Array:
    """An array in numpy's format, of a file of ``size`` bytes."""
    shape, column_major, dtype = _read_header(file, path)
    count = math.prod(shape)
    if any(length < 0 for length in shape) or count * dtype.itemsize > size:
        raise UnreadableInputError(
            f"{path} claims an array of shape {list(shape)} in {dtype}, more than its {size} bytes hold"
        )
    check_fits(shape, dtype.itemsize, path)
    content = np.empty(count * dtype.itemsize, np.uint8)
    place = content.data
    while place:
        piece = file.read(min(len(place), _CHUNK))
        if not piece:
            raise UnreadableInputError(f"{path} ends within its array: {len(place)} bytes are missing")
        place[: len(piece)] = piece
        place = place[len(piece) :]
    return content.view(dtype).reshape(shape, order="F" if column_major else "C")


def _read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableInputError(f"{path} is in version {version} of numpy's format: expected (1, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header that Python 2 wrote
        shape, column_major, dtype = read(file)
    return shape, column_major, _checked(np.empty(0, dtype), path).dtype


def _checked(array: Array, path: Path) -> Array:
    if array.dtype.kind not in _NUMBERS:
        raise UnreadableInputError(
            f"{path} cannot be read as inputs: it has an array of {array.dtype}, "
            "and real numbers are expected"
        )
    return array
