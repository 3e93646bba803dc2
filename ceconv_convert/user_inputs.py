"""The user's own inputs: a folder of images, or arrays in a file, as docs/cli.md describes them.

Images are read as torchvision's ImageFolder reads them: a JPEG's EXIF orientation is not applied,
transparency is dropped, and the first frame of an animation is read. 16-bit grays keep their 16 bits. Hidden
files and files with other suffixes are left out.
"""

import math
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.files.safetensors_io import StoredTensor, open_stored
from ceconv_convert.files.system import reading, stat_of

Array = np.ndarray[Any, Any]

LIMIT = 2**32
"""Most bytes that are read at once: an image, an array, and for int8 all images in float32."""
_KIND = " as inputs"
_ARRAYS = (".npy", ".npz", ".safetensors")
_IMAGES = ("images", "inputs", "input", "x")
_LABELS = ("labels", "targets", "label", "y")
_MOST_NAMES = 8  # names of arrays that an error lists
_SINGLE = np.dtype(np.float32).itemsize
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow goes by the content, and knows formats for which it runs other programs."""
_BYTE, _WORD = 255, 65535


@dataclass(frozen=True, eq=False)
class Images:
    """Inputs of ``shape``, ``[count, 3, H, W]``; ``images[index]``, ``[3, H, W]``, is read when it is taken.

    In float32 or, to keep numbers, float64. It raises UnreadableInputError where one cannot be read.
    """

    path: Path
    shape: tuple[int, ...]
    read: Callable[[int], Array]

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.read(index)))

    def tensor(self) -> Tensor:
        """All at once, ``[count, 3, H, W]``."""
        with reading(self.path, _KIND):
            _check_fits(math.prod(self.shape) * _SINGLE, f"inputs of shape {list(self.shape)}")
        return torch.stack([self[index] for index in range(self.shape[0])])


@dataclass(frozen=True, eq=False)
class UserInputs:
    """Inputs, and int64 ``[count]`` classes."""

    images: Images
    labels: Tensor | None


def read_inputs(path: Path, size: tuple[int, int] | None) -> UserInputs:
    """Inputs from a folder, whose images are resized to ``size``, by default that of the first, or a file."""
    with reading(path, _KIND):
        images: Array | None
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            found, labels = _open_folder(path, size)
        elif stat.S_ISREG(mode) and path.suffix.lower() in _ARRAYS:
            with _readers(path) as readers:
                images, labels = _read_first(readers, _IMAGES), _read_first(readers, _LABELS)
            if images is None:
                names = ", ".join([*readers][:_MOST_NAMES]) or "(none)"
                raise ValueError(f"it has the arrays {names}: inputs are called {' or '.join(_IMAGES)}")
            found = _as_images(path, images)
        else:
            raise ValueError("inputs are a folder of images, .npy, .npz or .safetensors")
        return UserInputs(found, None if labels is None else _as_labels(labels, found.shape[0]))


def _as_images(path: Path, array: Array) -> Images:
    if array.ndim < 4 or not array.size:
        raise ValueError(f"it has inputs of shape {list(array.shape)}: expected [count, 3, H, W]")
    if array.ndim == 4 and array.shape[1] != 3 and array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 1)
    # float32 holds integers of up to 24 bits exactly.
    single = array.dtype.itemsize <= (4 if array.dtype.kind == "f" else 2)

    def read(index: int) -> Array:
        with np.errstate(all="ignore"):
            image: Array = array[index].astype(np.float32 if single else np.float64)
        return image / np.float32(_BYTE) if array.dtype == np.uint8 else image

    for index in range(len(array) if array.dtype.kind == "f" else 0):
        if not np.isfinite(read(index)).all():
            raise ValueError(f"input {index} has NaN or Inf")
    return Images(path, array.shape, read)


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


@contextmanager
def _readers(path: Path) -> Iterator[dict[str, Callable[[], Array]]]:
    """What reads each array of a file, by its name: only what is needed is read."""
    if path.suffix.lower() == ".npy":
        yield {_IMAGES[0]: partial(_map_array, path)}
    elif path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield {
                member.filename.removesuffix(".npy"): partial(
                    _read_array, partial(archive.open, member), member.file_size
                )
                for member in archive.infolist()
            }
    else:
        yield {name: partial(_read_tensor, tensor) for name, tensor in open_stored(path).tensors.items()}


def _map_array(path: Path) -> Array:
    """An array in numpy's format, of which pages are read as they are needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a header that Python 2 wrote
        return npy.open_memmap(path, mode="r")


def _read_array(open_file: Callable[[], IO[bytes]], size: int) -> Array:
    """An array in numpy's format, from a file of ``size`` bytes, which numpy does not read beyond."""
    _check_fits(size, "its bytes")
    with open_file() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a header that Python 2 wrote
        array: Array = npy.read_array(file, allow_pickle=False)
    return array


def _read_tensor(stored: StoredTensor) -> Array:
    _check_fits(math.prod(stored.shape) * _SINGLE, f"numbers of shape {list(stored.shape)}")
    tensor = stored.read()
    if tensor.is_floating_point() and tensor.element_size() < _SINGLE:
        tensor = tensor.float()  # numpy has no bfloat16 and no float8
    array: Array = tensor.numpy()
    return array


def _read_first(readers: Mapping[str, Callable[[], Array]], names: Sequence[str]) -> Array | None:
    """The first array that has one of these names."""
    for name in names:
        if name in readers:
            array = readers[name]()
            if array.dtype.kind not in "biuf":  # bools, integers, floating point
                raise ValueError(f"it has an array of {array.dtype}, and real numbers are expected")
            return array
    return None


def _check_fits(size: int, what: str) -> None:
    if size > LIMIT:
        most = f"{LIMIT // 2**30} GiB are the most that is read: use fewer inputs, or smaller ones"
        raise ValueError(f"{what} take {size / 2**30:.1f} GiB, and {most}")


def _open_folder(path: Path, size: tuple[int, int] | None) -> tuple[Images, Array | None]:
    """Images, float32 in 0 … 1, and their classes: the numbers of their folders. Their headers are read."""
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
        with _open_image(file):
            pass
    shape = _read_image(files[0][0], size).shape
    found = Images(path, (len(files), *shape), lambda index: _read_image(files[index][0], shape[1:]))
    return found, np.array([label for _, label in files]) if classes else None


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """Its folders and its images, in alphabetical order."""
    with reading(folder, _KIND):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
    return folders, [e for e in entries if e not in folders and e.suffix.lower() in _SUFFIXES]


@contextmanager
def _open_image(file: Path) -> Iterator[Any]:
    """Pillow's image of a file, of which the header is read: errors while it is open are about the file."""
    from PIL import Image  # an extra: the command line says so where it is missing

    with reading(file, _KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_FORMATS) as image:
            if image.mode in ("I", "F") and not _is_gray_of_16_bits(image):
                mode = f"Pillow's mode {image.mode}"
                raise ValueError(f"it has pixels in {mode}, of no known range: save it with 8 or 16 bits")
            yield image


def _is_gray_of_16_bits(image: Any) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _read_image(file: Path, size: Sequence[int] | None) -> Array:
    """One image of a folder: ``[3, H, W]`` in 0 … 1."""
    with _open_image(file) as image:
        from PIL.Image import Resampling, fromarray

        image.load()  # applies a TIFF's orientation
        height, width = size or (image.height, image.width)
        _check_fits(3 * height * width * _SINGLE, f"an image of {height}×{width}")
        if _is_gray_of_16_bits(image):
            gray = fromarray(np.asarray(image).astype(np.float32))  # Pillow would cut it to 8 bits
            gray = gray.resize((width, height), Resampling.BILINEAR)
            return np.broadcast_to(np.asarray(gray) / np.float32(_WORD), (3, height, width))
        colors = image.convert("RGB").resize((width, height), Resampling.BILINEAR)
        return np.moveaxis(np.asarray(colors, np.float32) / np.float32(_BYTE), -1, 0)
