"""Files as the system knows them: what a name leads to, and whether it can be read to its end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ceconv_convert.errors import UnreadableInputError, first_line


def stat_of(path: Path) -> os.stat_result:
    """What the system knows of a regular file, through every link.

    Raises:
        UnreadableInputError: where there is none; a pipe or a device may have no end, and is none.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UnreadableInputError(f"{path} cannot be read: {reason_of(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise UnreadableInputError(f"{path} is {kind}")
    return found


def real_path(path: Path) -> Path:
    """The file that ``path`` names, through every link; it need not exist."""
    return Path(os.path.realpath(path))


def name_of(path: Path) -> str:
    r"""A file's name as text that every format can hold: bytes that are no UTF-8 become U+FFFD.

    >>> name_of(Path("a/b\udcff.pt"))
    'b�.pt'
    """
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def reason_of(error: OSError | ValueError) -> str:
    """Why the system refuses, without its number and the file's name."""
    return getattr(error, "strerror", None) or first_line(error)
