"""The user's own inputs: a folder of images, or arrays in a file.

Images are read by Pillow, made RGB, resized to the network's image size (bilinear) and scaled to 0 … 1.
Folders in the folder are classes, in alphabetical order. Arrays are taken as they are, but for bytes, which
are scaled to 0 … 1, and channels-last, which is turned round. No mean is subtracted: save arrays as the
network wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ceconv_convert.checkpoint.safetensors_files import open_stored
from ceconv_convert.errors import UnreadableInputError, first_line

_IMAGES = ("images", "inputs", "input", "x")
_LABELS = ("labels", "targets", "label", "y")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})


@dataclass(frozen=True, eq=False)
class UserInputs:
    """Inputs in float32, ``[count, 3, H, W]``, and their classes, ``[count]``, where they are known."""

    images: Tensor
    labels: Tensor | None

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise UnreadableInputError(
                f"there are {self.images.shape[0]} inputs and labels of shape {list(self.labels.shape)}"
            )


def read_inputs(path: Path, size: tuple[int, int] | None) -> UserInputs:
    """Inputs from a folder, ``.npy``, ``.npz`` or ``.safetensors``.

    Args:
        path: the folder or file.
        size: height and width that images are resized to; None keeps that of the first one.

    Raises:
        UnreadableInputError: where there are none that can be read.
    """
    try:
        if path.is_dir():
            return _read_folder(path, size)
        if path.suffix == ".npy":
            return UserInputs(_as_images(np.load(path, allow_pickle=False), path), None)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _from_arrays({name: arrays[name] for name in arrays.files}, path)
        if path.suffix == ".safetensors":
            stored = {name: tensor.numpy() for name, tensor in open_stored(path).read().items()}
            return _from_arrays(stored, path)
    except UnreadableInputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, UnidentifiedImageError) as error:
        raise UnreadableInputError(f"{path} cannot be read as inputs: {first_line(error)}") from error
    raise UnreadableInputError(f"{path}: inputs are a folder of images, .npy, .npz or .safetensors")


def _read_folder(path: Path, size: tuple[int, int] | None) -> UserInputs:
    classes = sorted(child for child in path.iterdir() if child.is_dir())
    files = [
        (image, label)
        for label, folder in enumerate(classes or [path])
        for image in sorted(folder.iterdir())
        if image.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise UnreadableInputError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    images = []
    for file, _ in files:
        with Image.open(file) as image:
            colors = image.convert("RGB")
        if size is None:
            size = (colors.height, colors.width)
        resized = colors.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        images.append(torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1))
    labels = torch.tensor([label for _, label in files]) if classes else None
    return UserInputs(torch.stack(images), labels)


def _from_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> UserInputs:
    name = next((name for name in _IMAGES if name in arrays), None)
    if name is None:
        names = ", ".join(arrays) or "(none)"
        raise UnreadableInputError(f"{path} has the arrays {names}: inputs are called {' or '.join(_IMAGES)}")
    found = next((arrays[label] for label in _LABELS if label in arrays), None)
    labels = None if found is None else torch.from_numpy(np.asarray(found).astype(np.int64))
    return UserInputs(_as_images(arrays[name], path), labels)


def _as_images(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim < 4 or not array.size:
        shape = list(array.shape)
        raise UnreadableInputError(f"{path} has inputs of shape {shape}: expected [count, 3, H, W]")
    if array.ndim == 4 and array.shape[1] != 3 and array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 1)
    scale = 255 if array.dtype == np.uint8 else 1
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) / np.float32(scale))
