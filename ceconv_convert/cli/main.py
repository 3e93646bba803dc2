"""The command line: whatever ends it becomes one sentence and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import click

from ceconv_convert.cli.options import cli
from ceconv_convert.errors import (
    ConversionError,
    NothingToConvertError,
    RefusedLayerError,
    VerificationError,
    first_line,
)

PASSED, FAILED, UNUSABLE, NOTHING = range(4)
"""Exit codes: verdict passed; failed; wrong usage or unreadable input; nothing to convert or a refusal."""
_SIGNALLED, _SIGPIPE = 128, 13
"""As shells do: a run that a signal ended exits with 128 and its number."""
_STDERR = 2


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
        with contextlib.redirect_stdout(cast(TextIO, _StandardOutput(sys.stdout))):
            code = _run()
    except _StandardOutputError as lost:
        # What is still to be flushed at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNUSABLE
        if isinstance(lost.error, BrokenPipeError):
            code = _SIGNALLED + _SIGPIPE
        else:
            _say(f"Error: standard output cannot be written: {lost.error.strerror}")
    sys.exit(code)


def _open_ends() -> None:
    """Give standard streams that are closed a place to go: an output's file would take their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)
    # What was closed is None: the type that sys gives them does not know that.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open to the end)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _run() -> int:
    written: list[Path] = []
    try:
        passed = cli(standalone_mode=False, obj=written)
        sys.stdout.flush()
        return FAILED if passed is False else PASSED  # None where click printed help or the version
    except ConversionError as error:
        _say(f"Error: {error}")
        return exit_code(error)
    except click.UsageError as error:
        _say(f"{error.ctx.get_usage()}\n" if error.ctx else "", f"Error: {error.format_message()}")
        return UNUSABLE
    except _Stopped as stopped:
        _say(f"Stopped: {_what_was(written)}")
        return _SIGNALLED + stopped.number
    except (click.Abort, KeyboardInterrupt):
        _say(f"Interrupted: {_what_was(written)}")
        return _SIGNALLED + signal.SIGINT
    except OSError as error:  # what nobody nearer to it has put into words
        names = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        _say(f"Error: {names}: {error.strerror}" if names else f"Error: {first_line(error)}")
        return UNUSABLE


def _what_was(written: Collection[Path]) -> str:
    if not written:
        return "nothing was written"
    return f"{', '.join(map(str, written))} had been written"


def _say(*lines: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too
        for line in filter(None, lines):
            click.echo(line, err=True)


class _StandardOutputError(Exception):
    """Standard output takes nothing more: an error of its own, which nobody takes for another file's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _StandardOutput:
    """A stream whose failures can be told from those of any other file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._failing():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._failing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @staticmethod
    @contextlib.contextmanager
    def _failing() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _StandardOutputError(error) from error


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
