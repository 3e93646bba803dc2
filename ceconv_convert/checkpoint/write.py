"""Outputs appear whole or not at all.

Each output is written beside its final place under a hidden name, flushed to the disk, and renamed only when
everything has been written and judged. A rename within a folder is atomic.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from ceconv_convert.errors import OutputError


class Staging:
    """Files on their way: ``path_for`` gives a place to write to, ``commit`` puts all in place.

    Leaving the ``with`` block without ``commit`` leaves nothing behind.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Staging() as staging:
    ...     _ = staging.path_for(Path(folder) / "a.txt").write_text("whole")
    ...     before = os.path.exists(f"{folder}/a.txt")
    ...     staging.commit()
    ...     before, os.path.exists(f"{folder}/a.txt")
    (False, True)
    """

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._files: dict[Path, Path] = {}

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for temporary in self._files.values():
            temporary.unlink(missing_ok=True)

    def path_for(self, output: Path) -> Path:
        """A temporary path beside ``output``, with the same suffix.

        Raises:
            OutputError: where ``output`` exists (without ``force``) or its folder cannot be written.
        """
        check_output(output, force=self._force)
        try:
            handle, name = tempfile.mkstemp(prefix=f".{output.stem}.", suffix=output.suffix, dir=output.parent)
            os.close(handle)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror}") from error
        self._files[output] = Path(name)
        return Path(name)

    def commit(self) -> None:
        """Put every file in its place.

        Raises:
            OutputError: where that fails.
        """
        mask = os.umask(0)
        os.umask(mask)
        for output, temporary in list(self._files.items()):
            check_output(output, force=self._force)
            try:
                temporary.chmod(0o666 & ~mask)
                _flush(temporary)
                temporary.replace(output)
            except OSError as error:
                raise OutputError(f"{output} cannot be written: {error.strerror}") from error
            del self._files[output]


def check_output(output: Path, *, force: bool = False) -> None:
    """Raise OutputError where ``output`` cannot or must not be written."""
    if output.is_dir():
        raise OutputError(f"{output} is a folder: give a file name")
    if not output.parent.is_dir():
        raise OutputError(f"{output} cannot be written: there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{output} cannot be written: no permission in {output.parent}")
    if output.exists() and not force:
        raise OutputError(f"{output} exists: pass --force to overwrite it")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
