"""Read a model from a file without running anything of the file's."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ceconv_convert.checkpoint.names import allowed_by_user, resolve
from ceconv_convert.checkpoint.skeleton import check_skeleton
from ceconv_convert.checkpoint.standin import StandIns
from ceconv_convert.errors import UnreadableInputError, first_line


def load(path: str | Path, *, allow: Iterable[str] = ()) -> nn.Module:
    """The module in a file that ``torch.save(model, path)`` wrote, on the CPU.

    Loaded with ``weights_only=True``: nothing of the file's is executed. Classes of ``torch.nn`` and of this
    package are allowed; the published layers' names become this package's layers.

    Args:
        path: the file.
        allow: further classes, ``package.module.Class``; they are imported.

    Raises:
        UnreadableInputError: for a file that is missing, damaged, not a module, or names other classes,
            all of which the message lists.
    """
    path = Path(path)
    found = _read(path, list(allow))
    if isinstance(found, nn.Module):
        try:
            check_skeleton(found)
        except UnreadableInputError as error:
            raise UnreadableInputError(f"{path}: {error}") from error
        return found
    raise UnreadableInputError(
        f"{path} holds {_describe(found)}, not a module: save it with torch.save(model, path)"
    )


def _read(path: Path, allow: list[str]) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UnreadableInputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UnreadableInputError(f"{path} is empty")
    if not zipfile.is_zipfile(path):
        what = (
            "a truncated or damaged zip archive"
            if head == b"PK\x03\x04"
            else "not a file that torch.save writes"
        )
        raise UnreadableInputError(f"{path} is {what}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except _DAMAGE as error:
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
        (stand_ins.of(cls), name) for cls, name in allowed
    ]
    try:
        with torch.serialization.safe_globals(pairs):
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    stand_ins.restore()
    return found


_DAMAGE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    OSError,
    AssertionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What torch and pickle raise on a damaged archive."""


def _damaged(path: Path, error: BaseException) -> UnreadableInputError:
    return UnreadableInputError(f"{path} cannot be read as a torch file: {first_line(error)}")


def _refusal(path: Path, refused: list[str]) -> str:
    flags = " ".join(f"--allow {name}" for name in refused)
    return (
        f"{path} names what is not allowed ({', '.join(refused)}); nothing of it was run. "
        f"If you trust the file, and these are classes that are installed here, pass {flags}"
    )


def _describe(found: object) -> str:
    if isinstance(found, dict):
        tensors = sum(isinstance(value, torch.Tensor) for value in found.values())
        return (
            f"a dict with {tensors} tensors"
            if tensors
            else f"a dict with the keys {', '.join(map(str, found))[:200]}"
        )
    return f"a {type(found).__name__}"
