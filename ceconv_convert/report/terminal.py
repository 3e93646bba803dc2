"""The terminal: lines and tables, and progress while something takes its time.

Results go to standard output; progress to standard error: bars on a terminal, else a line a phase, for logs.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn
from rich.text import Text

_WORTH_A_LINE = 1.0
"""Seconds from which a phase has a line in a log."""


class _Console(Console):
    """rich's console would end the program itself when a pipe is closed."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Terminal:
    """Where the command line prints; with ``quiet``, the verdict only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = _Console(highlight=False, soft_wrap=True)
        self._err = _Console(stderr=True, highlight=False)

    def line(self, text: str, style: str = "", *, always: bool = False) -> None:
        """A line of information; ``always`` prints it with ``quiet`` too."""
        if always or not self._quiet:
            self._out.print(Text(text, style))

    def table(self, lines: Iterable[str], styles: Iterable[str]) -> None:
        """Headings in bold, and rows in their styles; a narrow terminal wraps them."""
        for line, style in zip(lines, ("bold", *styles), strict=True):
            self.line(line, style)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show ``what`` as under way until the block ends; yields a function of steps done and in all."""
        if self._quiet or not self._err.is_terminal:
            start = time.monotonic()
            yield lambda done, total: None  # rich before 14.3 ends even a hidden bar with an empty line
            seconds = time.monotonic() - start
            if seconds >= _WORTH_A_LINE and not self._quiet:
                self._err.print(Text(f"{what}: {seconds:.0f} s"))
            return
        columns = (SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn())
        with Progress(*columns, console=self._err, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
