"""Read what torch.save wrote without running anything of the file's."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ceconv_convert.checkpoint import legacy
from ceconv_convert.checkpoint.names import allowed_by_user, resolve
from ceconv_convert.checkpoint.standin import StandIns
from ceconv_convert.errors import UnreadableInputError, first_line

_CHUNK = 2**20

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
    try:
        file = _open(path)
        names = _names_in(file)
    except UnreadableInputError:
        raise
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
    stand_ins.restore()
    return found


def read_unsafe(path: Path) -> object:
    """The object in a torch file, running whatever its pickle says.

    Raises:
        UnreadableInputError: where the file is missing or damaged, or names code that is not installed.
    """
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=False)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return found


def _open(path: Path) -> Path | io.BytesIO:
    """The file as torch's weights-only loading takes it: in the zip format, or the one before."""
    try:
        with path.open("rb") as file:
            head = file.read(len(legacy.MAGIC))
    except OSError as error:
        raise UnreadableInputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UnreadableInputError(f"{path} is empty")
    if zipfile.is_zipfile(path):
        _check_archive(path)
        return path
    if head == legacy.MAGIC:
        return legacy.without_wrapped_classes(path)
    if head.startswith(b"PK"):
        raise UnreadableInputError(f"{path} is a truncated or damaged zip archive")
    raise UnreadableInputError(f"{path} is not a file that torch.save writes")


def _names_in(file: Path | io.BytesIO) -> list[str]:
    """Every class and function that the file's pickle names and torch does not know to be harmless."""
    if isinstance(file, Path):
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    names = legacy.names_in(file)
    file.seek(0)
    return [name for name in names if not _is_harmless(name)]


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are, or whose checksums say that they are damaged.

    torch.save stores its entries as they are. torch.load looks at no checksum, and a network hides a flipped
    bit well.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise UnreadableInputError(
                    f"{path} has a compressed entry {entry.filename!r}: torch.save has none"
                )
        declared = sum(entry.file_size for entry in entries)
        if declared > os.path.getsize(path):
            raise UnreadableInputError(
                f"{path} declares {declared} bytes, more than it has: damaged, or a bomb"
            )
        for entry in entries:
            if entry.CRC != 0:  # torch can be told to write none
                with archive.open(entry) as content:
                    while content.read(_CHUNK):
                        pass  # at its end zipfile compares the checksum


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
