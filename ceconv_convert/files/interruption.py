"""Signals while files are moved, and the hidden folders that a killed process leaves beside its outputs.

A process holds a lock on each of its folders, which the system drops when the process ends, however it ends.
A folder that nobody holds is therefore abandoned, and the next process that writes beside it removes it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing is taken for abandoned
    fcntl = None  # type: ignore[assignment]

# Locks on a shared file system may be known to one machine only: folders of other machines are left alone.
_PREFIX = f".ceconv-convert.{re.sub('[^A-Za-z0-9-]', '-', platform.node())}."


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP until the block ends; then each does what it would have done.

    Handlers are replaced, not signals blocked: a blocked one goes to another thread, as torch has some, and
    Python would run its handler here all the same. Outside the main thread Python runs none.
    """
    caught: list[int] = []
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(lambda: [signal.raise_signal(number) for number in caught])
            for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    stack.callback(signal.signal, number, before)
                    signal.signal(number, lambda number, frame: caught.append(number))
        yield


def make_hidden_folder(parent: Path, removal: contextlib.ExitStack) -> Path:
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
