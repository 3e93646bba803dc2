"""The entry point: however a run ends, the user gets one sentence and an exit code."""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

import click

from ceconv_convert.cli.options import cli
from ceconv_convert.errors import ConversionError, first_line
from ceconv_convert.report.terminal import Terminal

PASSED, FAILED, UNUSABLE = range(3)
"""Exit codes: the verdict passed; it failed; wrong usage or an unreadable input. Errors have their own."""
_SIGNALLED, _SIGPIPE = 128, 13  # as in shells: the exit code after a signal is 128 plus its number

_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait: four times slower beside other work
    "THP_MEM_ALLOC_ENABLE": "1",  # large pages: half the time to allocate weights
}
"""Of the libraries, from before torch is imported."""


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
    message = ""
    try:
        code = _run(written)
    except ConversionError as error:
        code, message = error.exit_code, f"Error: {error}"
    except click.UsageError as error:
        usage = f"{error.ctx.get_usage()}\n\n" if error.ctx else ""
        code, message = UNUSABLE, f"{usage}Error: {error.format_message()}"
    except _Stopped as stopped:
        code, message = _SIGNALLED + stopped.args[0], f"Stopped: {_outcome(written)}"
    except (KeyboardInterrupt, click.Abort):
        code, message = _SIGNALLED + signal.SIGINT, f"Interrupted: {_outcome(written)}"
    except BrokenPipeError:  # who reads the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails too
        code = _SIGNALLED + _SIGPIPE
    except OSError as error:  # that nothing has turned into a ConversionError
        names = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        code, message = UNUSABLE, f"Error: {f'{names}: {error.strerror}' if names else first_line(error)}"
    with contextlib.suppress(OSError):  # the exit code says it too
        click.echo(message, err=True, nl=bool(message))
    sys.exit(code)


def _run(written: list[Path]) -> int:
    job = cli.main(prog_name="ceconv-convert", standalone_mode=False)
    if isinstance(job, int):  # help, the version or completions were printed
        return job
    terminal = Terminal(quiet=job.quiet)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with terminal.progress("loading torch"):
            from ceconv_convert.cli.run import run
    except ImportError as error:
        raise ConversionError(
            f"a library cannot be imported: {first_line(error)}; install ceconv-convert again with pip"
        ) from error
    return PASSED if run(job, terminal, written) else FAILED


def _outcome(written: list[Path]) -> str:
    return f"{', '.join(map(str, written))} had been written" if written else "nothing was written"
