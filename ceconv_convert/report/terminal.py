"""The terminal: a table of layers, progress while something takes its time, the verdict line.

Results go to standard output; progress to standard error, and only if that is a terminal: logs stay clean.
What needs torch is imported where it is used: progress is shown while torch loads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from ceconv_convert.bench.measure import Bench
    from ceconv_convert.conversion.plan_table import Plan
    from ceconv_convert.verification.verdict import Verdict


class StandardOutputError(Exception):
    """Standard output takes nothing more; the argument is the system's error."""


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """For a block that prints: tells a failure of standard output from that of another file."""
    try:
        yield
    except OSError as error:
        raise StandardOutputError(error) from error


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
            with standard_output():
                self._out.print(Text(text, style))

    def plan(self, plan: Plan) -> None:
        """The table of layers."""
        self._table(plan.table(), ("red" if row.refusal else "" for row in plan))
        for refusal in plan.refusals():
            self.line(refusal, "red")
        self.line(plan.totals())

    def bench(self, bench: Bench) -> None:
        """The table of times, the fastest in each runtime in bold."""
        from ceconv_convert.bench.bench_table import HEADINGS, bench_as_lines, row_as_texts
        from ceconv_convert.conversion.plan_table import aligned_lines

        fastest: dict[str, float] = {}
        for row in bench.rows:
            fastest[row.runtime] = min(row.seconds, fastest.get(row.runtime, row.seconds))
        lines = aligned_lines([HEADINGS, *(row_as_texts(vars(row)) for row in bench.rows)], HEADINGS[1:])
        self._table(lines, ("bold" if row.seconds == fastest[row.runtime] else "" for row in bench.rows))
        for line in bench_as_lines(bench):
            self.line(line)

    def _table(self, lines: Iterable[str], styles: Iterable[str]) -> None:
        """Headings in bold, and rows in their styles; a narrow terminal wraps them."""
        for line, style in zip(lines, ("bold", *styles), strict=True):
            self.line(line, style)

    def verdict(self, *verdicts: Verdict) -> None:
        """The verdict line, the only one that is printed with ``quiet``."""
        from ceconv_convert.verification.verdict import verdict_as_line

        self.line(verdict_as_line(*verdicts), "green" if all(verdicts) else "bold red", always=True)

    def wrote(self, path: Path) -> None:
        """What was written, and its size."""
        from ceconv_convert.conversion.plan_table import bytes_as_text

        self.line(f"wrote {path} ({bytes_as_text(path.stat().st_size)})")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show ``what`` as under way until the block ends; yields a function of steps done and in all."""
        bars = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        columns = (SpinnerColumn(), TextColumn("{task.description}"), *bars)
        hidden = self._quiet or not self._err.is_terminal
        with Progress(*columns, console=self._err, transient=True, disable=hidden) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
