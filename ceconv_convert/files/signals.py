"""Signals that ask to leave, held while something must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_HELD = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP until the block ends; then each does what it would have done.

    Handlers are replaced, not signals blocked: a blocked one goes to another thread, as torch has some, and
    Python would run its handler here all the same. Outside the main thread Python runs none.
    """
    caught: list[int] = []
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(_raise_again, caught)
            for name in _HELD:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                before = None if number is None else signal.getsignal(number)
                if number is not None and before not in (None, signal.SIG_IGN):
                    stack.callback(signal.signal, number, before)
                    signal.signal(number, lambda number, frame: caught.append(number))
        yield


def _raise_again(caught: list[int]) -> None:
    for number in caught:
        signal.raise_signal(number)
