"""Outputs appear whole, and together or not at all.

Each output is written in a hidden folder beside its final place, flushed to the disk, and moved only when
everything has been written and judged. A move within a file system is atomic; where one of several fails,
those before it are taken back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from ceconv_convert.errors import OutputError
from ceconv_convert.files.hidden import HiddenFolder
from ceconv_convert.files.safetensors_io import SHARD_INDEX
from ceconv_convert.files.signals import signals_held
from ceconv_convert.files.system import name_of, real_path, reason_of


class Staging:
    """Files on their way: ``path_for`` gives a place to write to, ``commit`` puts all in place.

    What a writer puts beside its file (ONNX weights past 2 GB) goes along. Leaving the ``with`` block without
    ``commit`` leaves nothing behind.

    Args:
        inputs: files that are read, which no output overwrites.
        force: whether outputs may overwrite other files.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Staging() as staging:
    ...     _ = staging.path_for(Path(folder) / "a.txt").write_text("whole")
    ...     before = os.path.exists(f"{folder}/a.txt")
    ...     staging.commit()
    ...     before, os.listdir(folder)
    (False, ['a.txt'])
    """

    def __init__(self, inputs: Iterable[Path] = (), *, force: bool = False) -> None:
        self._inputs = tuple(inputs)
        self._force = force
        self._staged: list[tuple[Path, Path, HiddenFolder]] = []  # output, its file in the folder

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def path_for(self, output: Path) -> Path:
        """Where to write what becomes ``output``, or the file that it links to.

        Raises:
            OutputError: where ``output`` must not be overwritten, or its folder cannot be written.
        """
        check_outputs([output], self._inputs, force=self._force)
        target = real_path(output)
        with _naming(output), signals_held():
            folder = HiddenFolder(target.parent)
            # Formats and runtimes take names as UTF-8 alone.
            self._staged.append((target, folder.path / name_of(target), folder))
        return self._staged[-1][1]

    def staged(self, output: Path) -> Path:
        """What was written for ``output``, before it is put in place."""
        target = real_path(output)
        return next(staged for found, staged, _ in self._staged if found == target)

    def commit(self) -> None:
        """Flush every file, then move all into place; signals that come meanwhile wait until it is done.

        Raises:
            OutputError: where that fails; everything is as it was then.
        """
        moves = []
        for output, staged, folder in self._staged:
            for file in folder.path.iterdir():
                target = output if file == staged else output.with_name(file.name)
                moves.append((file == staged, target, file, folder.path))
        # What a file needs beside it is there before it. In one order in every process: of several that write
        # the same files, one gets all of them.
        moves.sort()
        check_outputs([target for _, target, _, _ in moves], self._inputs, force=self._force)
        mask = os.umask(0)
        os.umask(mask)
        for _, target, file, _ in moves:
            with _naming(target):
                file.chmod(0o666 & ~mask)  # some writers make files that only their owner can read
                _flush(file)
        with signals_held(), contextlib.ExitStack() as undo:
            for _, target, file, beside in moves:
                with _naming(target):
                    undo.callback(_replace(file, target, beside) if self._force else _create(file, target))
            undo.pop_all()
            self.discard()

    def discard(self) -> None:
        """Forget what has been staged so far."""
        while self._staged:
            self._staged.pop()[-1].remove()


def check_outputs(outputs: Sequence[Path], inputs: Iterable[Path] = (), *, force: bool = False) -> None:
    """Raise OutputError where one of ``outputs`` cannot or must not be written, by whatever name.

    Args:
        outputs: that are to be written together.
        inputs: files that are read, which no output overwrites.
        force: whether other files may be overwritten.
    """
    targets = []
    for output in outputs:
        with _naming(output):
            _check_output(output, inputs, force=force)
            targets.append(real_path(output))
    for output, target in zip(outputs, targets, strict=True):
        if targets.count(target) > 1:
            raise OutputError(f"{output} is written twice: give each output a name of its own")


def _check_output(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    exists = os.path.lexists(output)
    target = real_path(output)
    if output.exists():
        if not output.is_file():
            kind = "a folder" if output.is_dir() else "no regular file"
            raise OutputError(f"{output} is {kind}: give a file name")
        if any(file.exists() and file.samefile(target) for file in inputs):
            raise OutputError(f"{output} is the input: give another name")
    if any(path.name.endswith(SHARD_INDEX) for path in (output, target)):
        raise OutputError(f"{output} would be an index of shards, which are not written: give another name")
    if target.is_symlink():
        raise OutputError(f"{output} is a link in a circle: give another name")
    if not target.parent.is_dir():
        folder = target.parent if output.is_symlink() else output.parent
        raise OutputError(f"{output} cannot be written: there is no folder {folder}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{output} cannot be written: no permission in {output.parent}")
    if exists and not force:
        raise OutputError(f"{output} exists: pass --force to overwrite it")


def _create(file: Path, target: Path) -> Callable[[], None]:
    """Move ``file`` to ``target``, which must not be there, whoever else tries; gives what takes it back."""
    own = file.lstat()
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name, then fill it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(file, target)
        except OSError:
            os.unlink(target)
            raise
    return partial(_remove, target, own)


def _replace(file: Path, target: Path, folder: Path) -> Callable[[], None]:
    """Move ``file`` over ``target``; gives what puts back what was there, which is kept in ``folder``."""
    own = file.lstat()
    kept = _keep(target, folder)
    os.replace(file, target)
    return partial(_remove, target, own) if kept is None else partial(os.replace, kept, target)


def _keep(target: Path, folder: Path) -> Path | None:
    """Another name, in ``folder``, of what ``target`` holds; None where there is no such file."""
    if not target.exists():
        return None
    kept = Path(tempfile.mkdtemp(dir=folder)) / "kept"
    try:
        os.link(target, kept)
    except OSError:  # no hard links here, or not to somebody else's file
        shutil.copy2(target, kept)
    return kept


def _remove(target: Path, own: os.stat_result) -> None:
    """Remove ``target`` while it still is the file that this process put there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(target.lstat(), own):
            target.unlink()


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence about ``output``."""
    try:
        yield
    except FileExistsError as error:
        raise OutputError(f"{output} exists: pass --force to overwrite it") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise OutputError(f"{output} cannot be written: {reason_of(error)}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
