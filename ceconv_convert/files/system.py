"""Files as the operating system knows them, and errors about a file as one sentence that names it."""

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ceconv_convert import errors


def reading(path: Path, kind: str = "") -> AbstractContextManager[None]:
    """Turn whatever is raised about a file's bytes into an UnreadableInputError, "cannot be read{kind}"."""
    return _in_one_sentence(errors.UnreadableInputError, f"{path} cannot be read{kind}")


def writing(output: object) -> AbstractContextManager[None]:
    """Turn whatever is raised while ``output`` is written into an OutputError."""
    return _in_one_sentence(errors.OutputError, f"{output} cannot be written")


@contextmanager
def _in_one_sentence(family: type[errors.ConversionError], sentence: str) -> Iterator[None]:
    try:
        yield
    except errors.ConversionError:
        raise
    except errors.FOREIGN_FAILURES as error:
        # Without the error's number and the file's name.
        reason = (isinstance(error, OSError) and error.strerror) or errors.first_line(error)
        raise family(f"{sentence}: {reason}") from error


def stat_of(path: Path) -> os.stat_result:
    """A regular file's status, through links; UnreadableInputError for others: a pipe may have no end."""
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
