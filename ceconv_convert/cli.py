"""The command line: whatever ends it becomes one sentence and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys

import click

from ceconv_convert.command import cli
from ceconv_convert.errors import (
    ConversionError,
    NothingToConvertError,
    RefusedLayerError,
    VerificationError,
)

PASSED, FAILED, UNUSABLE, NOTHING = range(4)
"""Exit codes: verdict passed; failed; wrong usage or unreadable input; nothing to convert or a refusal."""
_SIGNALLED, _SIGPIPE = 128, 13
"""As shells do: a run that a signal ended exits with 128 and its number."""
_STDOUT, _STDERR = 1, 2


def main() -> None:
    """Run the command line; whatever ends it becomes one sentence and an exit code."""
    _open_ends()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a stream that is open for reading too
                stream.reconfigure(errors="replace")  # a terminal without → is no reason to fail
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as error:
        # What is still to be flushed at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(_SIGNALLED + _SIGPIPE)
        code = UNUSABLE
        _say(f"Error: standard output cannot be written: {error.strerror}")
    sys.exit(code)


def _open_ends() -> None:
    """Give standard streams that are closed a place to go: an output's file would take their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        if number == _STDOUT:
            sys.stdout = open(_STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (open to the end)
        if number == _STDERR:
            sys.stderr = open(_STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    os.close(number)


def _run() -> int:
    try:
        passed = cli(standalone_mode=False)
        return FAILED if passed is False else PASSED  # None where click printed help or the version
    except ConversionError as error:
        _say(f"Error: {error}")
        return exit_code(error)
    except click.UsageError as error:
        _say(f"{error.ctx.get_usage()}\n" if error.ctx else "", f"Error: {error.format_message()}")
        return UNUSABLE
    except _Stopped as stopped:
        _say("Stopped: nothing was written")
        return _SIGNALLED + stopped.number
    except click.Abort:
        _say("Interrupted: nothing was written")
        return _SIGNALLED + signal.SIGINT


def _say(*lines: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too
        for line in filter(None, lines):
            click.echo(line, err=True)


class _Stopped(BaseException):
    """A signal asks to leave: as from an error, so that what lies beside the outputs is cleared."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def exit_code(error: ConversionError) -> int:
    """The exit code of an error."""
    if isinstance(error, (NothingToConvertError, RefusedLayerError)):
        return NOTHING
    return FAILED if isinstance(error, VerificationError) else UNUSABLE
