"""Read what torch.save wrote without running anything of the file's."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ceconv_convert.errors import UnreadableInputError, first_line
from ceconv_convert.files import legacy
from ceconv_convert.files.class_names import allowed_by_user, resolve
from ceconv_convert.files.standin import StandIns
from ceconv_convert.files.zip_archive import MAGIC as ZIP
from ceconv_convert.files.zip_archive import checked_archive

_HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "__builtin__.set",
        "builtins.set",
    }
)

DAMAGE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    ImportError,
    OSError,
    AssertionError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch, pickle and zipfile raise on a damaged file."""


def read_pickle(path: Path, allow: Iterable[str] = ()) -> object:
    """The object in a torch file, in its zip format or the one before, on the CPU.

    Args:
        path: the file.
        allow: classes that it may name beside those of ``torch.nn`` and the published networks.

    Raises:
        UnreadableInputError: where the file is missing, damaged, or names what is not allowed.
    """
    file = _open(path)
    try:
        names = _names_in(file)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    allowed = allowed_by_user(allow)
    known = {name for _, name in allowed}
    classes = {name: resolve(name) for name in names if name not in known}
    refused = sorted(name for name, cls in classes.items() if cls is None)
    if refused:
        raise UnreadableInputError(_refusal(path, refused))
    stand_ins = StandIns()
    allowed += [(cls, name) for name, cls in classes.items() if cls is not None]
    pairs: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_ins.of(cls, name), name) for cls, name in allowed
    ]
    try:
        with torch.serialization.safe_globals(pairs):
            found: object = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    _check_read_whole(file, path)
    stand_ins.restore()
    return found


def read_unsafe(path: Path) -> object:
    """The object in a torch file, running whatever its pickle says.

    Raises:
        UnreadableInputError: where the file is missing or damaged, or names code that is not installed.
    """
    file = _open(path, unsafe=True)
    try:
        found: object = torch.load(file, map_location="cpu", weights_only=False)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    _check_read_whole(file, path)
    return found


def _open(path: Path, *, unsafe: bool = False) -> io.BytesIO:
    """The bytes that torch loads: of the zip format those that were checked, of the one before all."""
    try:
        with path.open("rb") as file:
            head = file.read(len(legacy.MAGIC))
        if not head:
            raise UnreadableInputError(f"{path} is empty")
        if head.startswith(ZIP) and zipfile.is_zipfile(path):
            return checked_archive(path)
        if head == legacy.MAGIC:
            whole = io.BytesIO(path.read_bytes())
            legacy.check_storages(whole)
            return whole if unsafe else legacy.without_wrapped_classes(whole)
        if unsafe and not head.startswith(ZIP[:2]):
            return io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UnreadableInputError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if head.startswith(ZIP[:2]):
        raise UnreadableInputError(f"{path} is a truncated or damaged zip archive")
    hint = ": an .onnx file has no layers left to convert" if path.suffix == ".onnx" else ""
    raise UnreadableInputError(f"{path} is not a file that torch.save writes{hint}")


def _check_read_whole(file: io.BytesIO, path: Path) -> None:
    """Of the format before zip all is read: else a storage may have been left with what memory held."""
    read = file.tell()
    if legacy.is_legacy(file) and read != file.seek(0, io.SEEK_END):
        raise UnreadableInputError(f"{path} is damaged: bytes follow the last of its storages")


def _names_in(file: io.BytesIO) -> list[str]:
    """Every class and function that the file's pickle names and torch does not know to be harmless."""
    if legacy.is_legacy(file):
        names = [name for name in legacy.names_in(file) if not _is_harmless(name)]
    else:
        names = list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    file.seek(0)
    return names


def _is_harmless(name: str) -> bool:
    """Whether torch's weights-only loading allows a name of a state dict without being asked."""
    module_name, _, attribute = name.rpartition(".")
    if module_name == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype):
        return True
    return name in _HARMLESS or (module_name == "torch" and attribute.endswith("Storage"))


def _damaged(path: Path, error: BaseException) -> UnreadableInputError:
    return UnreadableInputError(f"{path} cannot be read as a torch file: {first_line(error)}")


def _refusal(path: Path, refused: list[str]) -> str:
    flags = " ".join(f"--allow {name}" for name in refused)
    return (
        f"{path} names what is not allowed ({', '.join(refused)}); nothing of it was run. "
        f"If you trust the file, and these are classes that are installed here, pass {flags}"
    )
