"""Hidden folders beside outputs, and what becomes of those that a killed process left.

A process holds a lock on each of its folders; the system drops it when the process ends, however it ends.
A folder that nobody holds is therefore abandoned, and the next process that writes beside it removes it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing taken for abandoned
    fcntl = None  # type: ignore[assignment]

# A shared file system may keep locks to one machine: folders of other machines are left alone.
_PREFIX = f".ceconv-convert.{re.sub('[^A-Za-z0-9-]', '-', platform.node())}."


class HiddenFolder:
    """A new folder in ``parent``, locked until ``remove``.

    Raises:
        OSError: where it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        _remove_abandoned(parent)
        self.path, self._lock = _make(parent)

    def remove(self) -> None:
        """Remove it, with what it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make(parent: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for abandoned, before it was locked
        except OSError:
            return folder, None  # a file system without locks


def _lock(folder: Path) -> int:
    """A descriptor that holds the lock of ``folder`` until it is closed, or the process ends.

    Raises:
        BlockingIOError: where another process holds it.
        FileNotFoundError: where there is no such folder, or no longer.
        OSError: where folders cannot be locked.
    """
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


def _remove_abandoned(parent: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if fcntl is None or folder.lstat().st_uid != os.geteuid():
                    continue
                lock = _lock(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
