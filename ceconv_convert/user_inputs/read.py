"""The user's own inputs: a folder of images, or arrays in a file.

Images are made RGB, resized to the network's image size (bilinear) and scaled to 0 … 1. Folders in the folder
are classes, in alphabetical order. Arrays are taken as they are, except that bytes are scaled to 0 … 1 and
channels-last is made channels-first. No mean is subtracted: save arrays as the network wants them.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ceconv_convert.files.system import reading
from ceconv_convert.user_inputs.arrays import AS_INPUTS, Array, npz_readers, read_npy, safetensors_readers
from ceconv_convert.user_inputs.images import read_folder

_IMAGES = ("images", "inputs", "input", "x")
_LABELS = ("labels", "targets", "label", "y")
_READERS = {".npz": npz_readers, ".safetensors": safetensors_readers}
_MOST_NAMES = 8
"""Names of arrays that an error lists."""


@dataclass(frozen=True, eq=False)
class UserInputs:
    """Inputs, ``[count, 3, H, W]``, and their classes, int64 ``[count]``, where they are known.

    In float64 where the file has numbers that float32 does not hold, else in float32.
    """

    images: Tensor
    labels: Tensor | None


def read_inputs(path: Path, size: tuple[int, int] | None) -> UserInputs:
    """Inputs from a folder, ``.npy``, ``.npz`` or ``.safetensors``.

    Args:
        path: the folder or file.
        size: height and width that images are resized to; None is that of the first one.

    Raises:
        UnreadableInputError: where there are none that can be read.
    """
    with reading(path, AS_INPUTS):
        images, labels = _read(path, size)
        found = torch.from_numpy(_as_images(images))
        return UserInputs(found, None if labels is None else _as_labels(labels, len(found)))


def _read(path: Path, size: tuple[int, int] | None) -> tuple[Array, Array | None]:
    mode, suffix = path.stat().st_mode, path.suffix.lower()
    if stat.S_ISDIR(mode):
        return read_folder(path, size)
    if not stat.S_ISREG(mode) or suffix not in (".npy", *_READERS):
        raise ValueError("inputs are a folder of images, .npy, .npz or .safetensors")
    if suffix == ".npy":
        return read_npy(path), None
    readers = _READERS[suffix](path)
    images, labels = (
        next((readers[name]() for name in names if name in readers), None) for names in (_IMAGES, _LABELS)
    )
    if images is None:
        found = ", ".join([*readers][:_MOST_NAMES]) or "(none)"
        raise ValueError(f"it has the arrays {found}: inputs are called {' or '.join(_IMAGES)}")
    return images, labels


def _as_images(array: Array) -> Array:
    if array.ndim < 4 or not array.size:
        raise ValueError(f"it has inputs of shape {list(array.shape)}: expected [count, 3, H, W]")
    if array.ndim == 4 and array.shape[1] != 3 and array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 1)
    # float32 holds integers of up to 24 bits exactly.
    single = array.dtype.itemsize <= (4 if array.dtype.kind == "f" else 2)
    with np.errstate(all="ignore"):
        images = array.astype(np.float32 if single else np.float64, order="C", copy=False)
    if array.dtype == np.uint8:
        images /= np.iinfo(np.uint8).max
    for index, image in enumerate(images):
        if not np.isfinite(image).all():
            raise ValueError(f"input {index} has NaN or Inf")
    return images


def _as_labels(array: Array, count: int) -> Tensor:
    """Class numbers, one for each input; of one-hot rows the position of the one."""
    shape = list(array.shape)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        array = array.argmax(1)
    if array.shape != (count,):
        raise ValueError(f"it has {count} inputs and labels of shape {shape}: expected one class number each")
    wrong = array[~((array >= 0) & (array < 2**31) & (array == np.trunc(array)))]
    if wrong.size:
        raise ValueError(f"it has the label {wrong[0]}: expected class numbers, from 0")
    return torch.from_numpy(array.astype(np.int64))
