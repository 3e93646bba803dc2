"""The entry point: however a run ends, the user gets one sentence and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

import click
from click.shell_completion import shell_complete

from ceconv_convert.cli.options import cli
from ceconv_convert.errors import ConversionError, first_line
from ceconv_convert.report.terminal import StandardOutputError, standard_output

PASSED, FAILED, UNUSABLE = range(3)
"""Exit codes: the verdict passed; it failed; wrong usage or an unreadable input. Errors have their own."""
_SIGNALLED, _SIGPIPE = 128, 13
"""As in shells: the exit code after a signal is 128 plus its number."""
_NAME, _COMPLETION = "ceconv-convert", "_CECONV_CONVERT_COMPLETE"
"""The program, and the variable in which a shell asks it for completions."""


class _Stopped(BaseException):
    """A signal that ends the run; raised like an error, so that unfinished outputs are removed."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def main() -> None:
    """Run the command line and exit."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream is closed: without this, an output file would get its number
    os.close(spare)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without → is no reason to fail
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    written: list[Path] = []
    try:
        code, message = _run(written), ""
    except ConversionError as error:
        code, message = error.exit_code, f"Error: {error}"
    except click.UsageError as error:
        usage = f"{error.ctx.get_usage()}\n\n" if error.ctx else ""
        code, message = UNUSABLE, f"{usage}Error: {error.format_message()}"
    except _Stopped as stopped:
        code, message = _SIGNALLED + stopped.args[0], f"Stopped: {_outcome(written)}"
    except KeyboardInterrupt:
        code, message = _SIGNALLED + signal.SIGINT, f"Interrupted: {_outcome(written)}"
    except StandardOutputError as error:
        code, message = _lost(error.args[0])
    except OSError as error:  # that nothing has turned into a ConversionError
        names = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        found = f"{names}: {error.strerror}" if names else first_line(error)
        code, message = UNUSABLE, f"Error: {found}"
    with contextlib.suppress(OSError):  # the exit code says it too
        click.echo(message, err=True, nl=bool(message))
    sys.exit(code)


def _run(written: list[Path]) -> int:
    completion = os.environ.get(_COMPLETION)
    if completion:
        return shell_complete(cli, {}, _NAME, _COMPLETION, completion)
    try:
        with standard_output():
            context = cli.make_context(_NAME, sys.argv[1:], obj=written)
    except click.exceptions.Exit:  # help or the version was printed
        return PASSED
    return PASSED if cli.invoke(context) else FAILED


def _outcome(written: list[Path]) -> str:
    return f"{', '.join(map(str, written))} had been written" if written else "nothing was written"


def _lost(error: OSError) -> tuple[int, str]:
    """Exit code and message where standard output takes nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails too
    if isinstance(error, BrokenPipeError):
        return _SIGNALLED + _SIGPIPE, ""
    return UNUSABLE, f"Error: standard output cannot be written: {error.strerror}"
