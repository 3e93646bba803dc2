"""Files as the operating system knows them, and errors about a file as one sentence that names it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ceconv_convert import errors


@contextmanager
def reading(path: Path, kind: str = "") -> Iterator[None]:
    """Turn whatever is raised about a file's bytes into an UnreadableInputError, "cannot be read{kind}"."""
    try:
        yield
    except errors.ConversionError:
        raise
    except errors.FOREIGN_FAILURES as error:
        raise errors.UnreadableInputError(f"{path} cannot be read{kind}: {_reason(error)}") from error


@contextmanager
def writing(output: object) -> Iterator[None]:
    """Turn whatever is raised while ``output`` is written into an OutputError."""
    try:
        yield
    except errors.ConversionError:
        raise
    except FileExistsError as error:
        raise errors.OutputError(f"{output} exists: pass --force to overwrite it") from error
    except errors.FOREIGN_FAILURES as error:
        raise errors.OutputError(f"{output} cannot be written: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Without the error's number and the file's name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else errors.first_line(error)


def stat_of(path: Path) -> os.stat_result:
    """The status of a regular file, through every link; UnreadableInputError where there is none.

    Pipes and devices are refused: they may have no end.
    """
    with reading(path):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise errors.UnreadableInputError(f"{path} is {kind}")
    return found


def name_of(path: Path) -> str:
    r"""A file's name as valid Unicode, which every format can hold: bytes that are no UTF-8 become U+FFFD.

    >>> name_of(Path("a/b\udcff.pt"))
    'b�.pt'
    """
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
