"""Outputs appear whole, and together or not at all.

Each is written in a hidden folder beside its final place, and moved when everything has been written and
judged. A move is atomic; where one of several fails, those before it are taken back. A process holds a lock
on each of its folders until it ends, however it ends. One that nobody holds is abandoned, and the next
process that writes beside it removes it.
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from ceconv_convert.errors import OutputError
from ceconv_convert.files.safetensors_io import SHARD_INDEX
from ceconv_convert.files.system import name_of, writing

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing is taken for abandoned
    fcntl = None  # type: ignore[assignment]

# Locks on a shared file system may be known to one machine only: folders of other machines are left alone.
_PREFIX = f".ceconv-convert.{re.sub('[^A-Za-z0-9-]', '-', platform.node())}."


class Staging(contextlib.ExitStack):
    """Files that are being written: ``path_for`` names a place to write to, ``commit`` puts all in place.

    What a writer puts beside its file (ONNX weights past 2 GB) goes along. Leaving the ``with`` block without
    ``commit`` leaves nothing behind. Outputs overwrite files only with ``force``, and ``inputs`` never.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Staging() as staging:
    ...     _ = staging.path_for(Path(folder) / "a.txt").write_text("whole")
    ...     before = os.path.exists(f"{folder}/a.txt")
    ...     staging.commit()
    ...     before, os.listdir(folder)
    (False, ['a.txt'])
    """

    def __init__(self, inputs: Iterable[Path] = (), *, force: bool = False) -> None:
        super().__init__()
        self._inputs = tuple(inputs)
        self._force = force
        self._staged: dict[Path, Path] = {}  # of each output, its file in a folder of its own

    def path_for(self, output: Path) -> Path:
        """Where to write what becomes ``output``, or the file that it links to."""
        *_, target = check_outputs([*self._staged, output], self._inputs, force=self._force)
        with writing(output), signals_held():
            folder = _make_hidden_folder(target.parent, self)
            self._staged[target] = folder / name_of(target)  # some writers take UTF-8 names only
        return self._staged[target]

    def staged(self, output: Path) -> Path:
        """What was written for ``output``, before it is put in place."""
        return self._staged[Path(os.path.realpath(output))]

    def commit(self) -> None:
        """Flush every file, then move all into place, or none; signals that come meanwhile wait."""
        # What a file needs beside it comes first. The same order in every process: of several that write the
        # same files at once, one gets all of them.
        moves = sorted(
            (file == staged, output if file == staged else output.with_name(file.name), file)
            for output, staged in self._staged.items()
            for file in staged.parent.iterdir()
        )
        check_outputs([target for _, target, _ in moves], self._inputs, force=self._force)
        mask = os.umask(0)
        os.umask(mask)
        for _, target, file in moves:
            with writing(target):
                file.chmod(0o666 & ~mask)  # some writers make files that only their owner can read
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        with signals_held(), contextlib.ExitStack() as undo:
            for _, target, file in moves:
                with writing(target):
                    undo.callback(_move(file, target, force=self._force))
            undo.pop_all()
            self.discard()

    def discard(self) -> None:
        """Forget what has been staged so far."""
        self._staged.clear()
        self.close()


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path] = (), *, force: bool = False) -> list[Path]:
    """The files that ``outputs`` name, through links; OutputError where one cannot or must not be written."""
    targets: list[Path] = []
    for output in outputs:
        with writing(output):
            target = Path(os.path.realpath(output))
            problem = _problem(output, target, inputs, force=force)
        if target in targets:
            problem = "is written twice: give each output a name of its own"
        if problem is not None:
            raise OutputError(f"{output} {problem}")
        targets.append(target)
    return targets


def _problem(output: Path, target: Path, inputs: Iterable[Path], *, force: bool) -> str | None:
    if output.exists():
        if not output.is_file():
            return f"is {'a folder' if output.is_dir() else 'no regular file'}: give a file name"
        if any(file.exists() and file.samefile(target) for file in inputs):
            return "is the input: give another name"
    if any(path.name.endswith(SHARD_INDEX) for path in (output, target)):
        return "would be an index of shards, which are not written: give another name"
    if target.is_symlink():
        return "is a link in a circle: give another name"
    if not target.parent.is_dir():
        folder = target.parent if output.is_symlink() else output.parent
        return f"cannot be written: there is no folder {folder}"
    if not os.access(target.parent, os.W_OK | os.X_OK):
        return f"cannot be written: no permission in {output.parent}"
    if os.path.lexists(output) and not force:
        return "exists: pass --force to overwrite it"
    return None


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP until the block ends; then each does what it would have done.

    Handlers are replaced, not signals blocked: a blocked one goes to another thread, as torch has some, and
    Python would run its handler here all the same. Outside the main thread Python runs none.
    """
    caught: list[int] = []
    try:
        with contextlib.ExitStack() as handlers:
            if threading.current_thread() is threading.main_thread():
                for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
                    before = signal.getsignal(number)
                    if before not in (None, signal.SIG_IGN):
                        handlers.callback(signal.signal, number, before)
                        signal.signal(number, lambda number, frame: caught.append(number))
            yield
    finally:
        for number in caught:
            signal.raise_signal(number)


def _make_hidden_folder(parent: Path, removal: contextlib.ExitStack) -> Path:
    """Make a new folder in ``parent``, locked until ``removal`` is closed, which removes it."""
    for abandoned in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = _lock(abandoned)
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(abandoned, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            removal.callback(os.close, _lock(folder))
        except (BlockingIOError, FileNotFoundError):
            continue  # before it was locked, another process took it for abandoned
        except OSError:
            pass  # a file system without locks
        removal.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _lock(folder: Path) -> int:
    """A descriptor that holds the lock; BlockingIOError where another process holds it."""
    if fcntl is None:
        raise OSError("folders cannot be locked")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)  # whoever held it may have removed it
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _move(file: Path, target: Path, *, force: bool) -> Callable[[], None]:
    """Move ``file`` to ``target``, which is replaced with ``force`` alone, whoever else makes it meanwhile.

    Returns what undoes it, as long as the file's folder is there.
    """
    if force and target.exists():
        kept = Path(tempfile.mkdtemp(dir=file.parent)) / "kept"
        try:
            os.link(target, kept)
        except OSError:  # no hard links here, or not to somebody else's file
            shutil.copy2(target, kept)
        os.replace(file, target)
        return partial(os.replace, kept, target)
    try:
        os.link(file, target)
    except OSError:  # it exists, or the file system has no hard links: take the name, then fill it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(file, target)
        except OSError:
            os.unlink(target)
            raise
    return partial(target.unlink, missing_ok=True)
