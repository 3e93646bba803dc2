"""A folder of images, read as torchvision's ImageFolder reads them: a JPEG's EXIF orientation is not applied.

Transparency is dropped; of moving pictures the first counts; grays of 16 bits keep them. Hidden files and
files of other suffixes are left out. What is read in place of a file that is named like an image is an error.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.user_inputs.arrays import Array, check_fits, parsing

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow goes by the content, and knows formats that run other programs."""
_BYTE, _WORD = 255, 65535
_SINGLE = 4


def read_folder(path: Path, size: tuple[int, int] | None) -> tuple[Array, Array | None]:
    """Images, ``[count, 3, H, W]`` in 0 … 1, and their classes: the numbers of the folders that they lie in.

    Args:
        path: the folder.
        size: height and width that images are resized to; None keeps that of the first one.

    Raises:
        UnreadableInputError: where one of them cannot be read, and the error names it.
    """
    classes, alone = _list(path)
    if classes and alone:
        raise UnreadableInputError(
            f"{path} holds images, as {alone[0].name}, and folders, as {classes[0].name}: expected either "
            "images alone, or a folder for each class"
        )
    files = [(file, 0) for file in alone]
    for label, folder in enumerate(classes):
        inside, images = _list(folder)
        if inside:
            raise UnreadableInputError(f"{inside[0]} is a folder in a folder of one class: expected images")
        files += [(file, label) for file in images]
    if not files:
        raise UnreadableInputError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    for file, _ in files:
        _check_regular(file)
    found: Array | None = None
    for index, (file, _) in enumerate(files):
        with parsing(file), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                image.load()  # which turns what a TIFF says is to be turned
                size = (image.height, image.width) if size is None else size
                check_fits((len(files), 3, *size), _SINGLE, path)
                colors = _colors(image, size, file)
        if found is None:
            found = np.empty((len(files), *colors.shape), np.float32)
        found[index] = colors
    labels = np.array([label for _, label in files]) if classes else None
    return np.empty(0) if found is None else found, labels


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """Its folders and its images, in alphabetical order."""
    with parsing(folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
        others = sorted({*entries} - {*folders})
    return folders, [entry for entry in others if entry.suffix.lower() in _SUFFIXES]


def _check_regular(file: Path) -> None:
    """A pipe would be waited for."""
    with parsing(file):
        if not stat.S_ISREG(file.stat().st_mode):
            raise UnreadableInputError(f"{file} is named like an image and is not a regular file")


def _colors(image: Image.Image, size: tuple[int, int], file: Path) -> Array:
    """``[3, H, W]`` in 0 … 1."""
    height, width = size
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        gray = Image.fromarray(np.asarray(image).astype(np.float32))  # Pillow would cut it to 8 bits
        gray = gray.resize((width, height), Image.Resampling.BILINEAR)
        return np.broadcast_to(np.asarray(gray) / np.float32(_WORD), (3, height, width))
    if image.mode in ("I", "F"):
        raise UnreadableInputError(
            f"{file} has pixels whose range is not known, in Pillow's mode {image.mode}: save it with 8 or "
            "16 bits"
        )
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.moveaxis(np.asarray(resized, np.float32) / np.float32(_BYTE), -1, 0)
