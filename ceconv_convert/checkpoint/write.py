"""Outputs appear whole or not at all.

Each output is written under its own name in a hidden folder beside its final place, flushed to the disk, and
moved only when everything has been written and judged. A move within a file system is atomic.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ceconv_convert.errors import OutputError


class Staging:
    """Files on their way: ``path_for`` gives a place to write to, ``commit`` puts all in place.

    What a writer puts beside its file (ONNX weights past 2 GB) goes along. Leaving the ``with`` block without
    ``commit`` leaves nothing behind.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Staging() as staging:
    ...     _ = staging.path_for(Path(folder) / "a.txt").write_text("whole")
    ...     before = os.path.exists(f"{folder}/a.txt")
    ...     staging.commit()
    ...     before, os.listdir(folder)
    (False, ['a.txt'])
    """

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._folders: dict[Path, Path] = {}  # output → hidden folder beside it

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def path_for(self, output: Path) -> Path:
        """Where to write what becomes ``output``, or the file that it links to.

        Raises:
            OutputError: where ``output`` exists (without ``force``) or its folder cannot be written.
        """
        check_output(output, force=self._force)
        target = real_path(output)
        with _naming(output):
            folder = Path(tempfile.mkdtemp(prefix=".ceconv-convert.", dir=target.parent))
        self._folders[target] = folder
        return folder / target.name

    def commit(self) -> None:
        """Flush every file, then move all into place.

        Raises:
            OutputError: where that fails.
        """
        moves = []
        for output, folder in self._folders.items():
            # The file itself comes last: what it needs beside it is there when it appears.
            for file in sorted(folder.iterdir(), key=lambda file: file.name == output.name):
                moves.append((file, output.with_name(file.name)))
        for _, target in moves:
            check_output(target, force=self._force)
        mask = os.umask(0)
        os.umask(mask)
        for source, target in moves:
            with _naming(target):
                source.chmod(0o666 & ~mask)  # some writers make files that only their owner can read
                _flush(source)
        for source, target in moves:
            with _naming(target):
                source.replace(target)
        self._clear()

    def _clear(self) -> None:
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        self._folders.clear()


def real_path(path: Path) -> Path:
    """The file that ``path`` names, through every link; it need not exist."""
    return Path(os.path.realpath(path))


def check_output(output: Path, *, force: bool = False) -> None:
    """Raise OutputError where ``output`` cannot or must not be written."""
    with _naming(output):
        exists = os.path.lexists(output)
        if output.exists() and not output.is_file():
            kind = "a folder" if output.is_dir() else "no regular file"
            raise OutputError(f"{output} is {kind}: give a file name")
    target = real_path(output)
    if target.is_symlink():
        raise OutputError(f"{output} is a link in a circle: give another name")
    if not target.parent.is_dir():
        folder = target.parent if output.is_symlink() else output.parent
        raise OutputError(f"{output} cannot be written: there is no folder {folder}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{output} cannot be written: no permission in {output.parent}")
    if exists and not force:
        raise OutputError(f"{output} exists: pass --force to overwrite it")


def check_not_input(output: Path, source: Path) -> None:
    """Raise OutputError where ``output`` is the file that is read, by whatever name."""
    target, read = real_path(output), real_path(source)
    with _naming(output):
        if target == read or (target.exists() and read.exists() and target.samefile(read)):
            raise OutputError(f"{output} is the input: give another name")


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence about ``output``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
