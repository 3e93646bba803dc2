"""Arrays from files that may be damaged; their headers are checked before memory is taken.

What is wrong with a file is raised as a ValueError, which ``read_inputs`` turns into a sentence about it.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ceconv_convert.files.safetensors_io import StoredTensor, open_stored

Array = np.ndarray[Any, Any]
AS_INPUTS = " as inputs"
"""What a file cannot be read as, in an error."""

LIMIT = 2**32
"""Most bytes of numbers that are read, as they lie in memory."""
_SINGLE = np.dtype(np.float32).itemsize
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_fits(shape: Sequence[int], size: int) -> None:
    """Raise ValueError where numbers of ``size`` bytes in that shape are more than are read."""
    total = math.prod(shape) * max(size, _SINGLE)
    if total > LIMIT:
        raise ValueError(
            f"numbers of shape {list(shape)} take {total / 2**30:.1f} GiB, and {LIMIT // 2**30} GiB are the "
            "most that is read: use fewer inputs, or smaller ones"
        )


def read_npy(path: Path) -> Array:
    """The array of a ``.npy`` file."""
    with path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def npz_readers(path: Path) -> dict[str, Callable[[], Array]]:
    """What reads each array of an ``.npz`` file, by its name."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    return {member.filename.removesuffix(".npy"): partial(_read_member, path, member) for member in members}


def safetensors_readers(path: Path) -> dict[str, Callable[[], Array]]:
    """What reads each tensor of a safetensors file, by its name."""
    return {name: partial(_read_tensor, tensor) for name, tensor in open_stored(path).tensors.items()}


def _read_member(path: Path, member: zipfile.ZipInfo) -> Array:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        return _read_array(file, member.file_size)


def _read_tensor(stored: StoredTensor) -> Array:
    check_fits(stored.shape, stored.dtype.itemsize)
    tensor = stored.read()
    if tensor.is_floating_point() and tensor.element_size() < _SINGLE:
        tensor = tensor.float()  # numpy has no bfloat16 and no float8
    array: Array = tensor.numpy()
    _check_numbers(array.dtype)
    return array


def _read_array(file: IO[bytes], size: int) -> Array:
    """An array in numpy's format, from a file of ``size`` bytes."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it is in version {version} of numpy's format: expected (1, 0)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a header that Python 2 wrote
        shape, _, dtype = _HEADERS[version](file)
        _check_numbers(dtype)
        if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > size:
            claim = f"an array of shape {list(shape)} in {dtype}"
            raise ValueError(f"it claims {claim}, more than its {size} bytes hold")
        check_fits(shape, dtype.itemsize)
        file.seek(0)
        array: Array = npy.read_array(file, allow_pickle=False)
    return array


def _check_numbers(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":  # bools, integers, floating point
        raise ValueError(f"it has an array of {dtype}, and real numbers are expected")
