"""A folder of images, read as torchvision's ImageFolder reads them: a JPEG's EXIF orientation is not applied.

Transparency is dropped, the first frame of an animation is read, and 16-bit grays keep their 16 bits. Hidden
files and files with other suffixes are left out. A file that is named like an image and is none is an error.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.system import reading, stat_of
from ceconv_convert.user_inputs.arrays import AS_INPUTS, Array, check_fits

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow goes by the content, and knows formats for which it runs other programs."""
_BYTE, _WORD = 255, 65535


def read_folder(path: Path, size: tuple[int, int] | None) -> tuple[Array, Array | None]:
    """Images, float32 ``[count, 3, H, W]`` in 0 … 1, and their classes: the numbers of their folders.

    Args:
        path: the folder.
        size: height and width that images are resized to; None is that of the first one.

    Raises:
        UnreadableInputError: where one of them cannot be read, which the error names, or Pillow is missing.
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
        stat_of(file)  # a pipe would be waited for
    found = np.empty(0, np.float32)
    for index, (file, _) in enumerate(files):
        image = _read_image(file, size, len(files))
        if index == 0:
            size = (image.shape[1], image.shape[2])
            found = np.empty((len(files), *image.shape), np.float32)
        found[index] = image
    return found, np.array([label for _, label in files]) if classes else None


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """Its folders and its images, in alphabetical order."""
    with reading(folder, AS_INPUTS):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
    return folders, [e for e in entries if e not in folders and e.suffix.lower() in _SUFFIXES]


def _read_image(file: Path, size: tuple[int, int] | None, count: int) -> Array:
    """One of ``count`` images of a folder: ``[3, H, W]`` in 0 … 1."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnreadableInputError(
            "reading images needs Pillow: pip install 'ceconv-convert[report]'"
        ) from error
    with reading(file, AS_INPUTS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_FORMATS) as image:
            image.load()  # applies a TIFF's orientation
            height, width = size or (image.height, image.width)
            check_fits((count, 3, height, width), 1)
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                gray = Image.fromarray(np.asarray(image).astype(np.float32))  # Pillow would cut it to 8 bits
                gray = gray.resize((width, height), Image.Resampling.BILINEAR)
                return np.broadcast_to(np.asarray(gray) / np.float32(_WORD), (3, height, width))
            if image.mode in ("I", "F"):
                mode = f"Pillow's mode {image.mode}"
                raise ValueError(f"it has pixels in {mode}, of no known range: save it with 8 or 16 bits")
            colors = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
            return np.moveaxis(np.asarray(colors, np.float32) / np.float32(_BYTE), -1, 0)
