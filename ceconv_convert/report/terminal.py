"""The terminal: a table of layers, progress while something takes its time, verdict lines.

Results go to standard output, progress to standard error and only to a terminal: logs stay clean.
What needs torch is imported where it is used, so that the terminal can say something while torch loads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ceconv_convert.bench.measure import Bench
    from ceconv_convert.conversion.plan_table import Plan
    from ceconv_convert.verification.verdict import Verdict

_RIGHT = frozenset({"before", "after"})
_TABLE_WIDTH = 160


class _Console(Console):
    """rich's, which would end the program itself where nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Terminal:
    """Where the command line prints.

    Args:
        quiet: nothing but verdicts and errors.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = _Console(highlight=False, soft_wrap=True)
        self._err = _Console(stderr=True, highlight=False)

    def line(self, text: str) -> None:
        """A line of information."""
        if not self._quiet:
            self._out.print(Text(text))

    def plan(self, plan: Plan) -> None:
        """The table of layers."""
        from ceconv_convert.conversion.plan_table import HEADINGS

        if self._quiet:
            return
        self._table(HEADINGS, _RIGHT, ((row.cells(), "red" if row.refusal else None) for row in plan))
        for refusal in plan.refusals():
            self._out.print(Text(refusal, style="red"))
        self.line(plan.totals())

    def bench(self, bench: Bench) -> None:
        """The table of candidates, the fastest in each runtime in bold."""
        from ceconv_convert.bench.bench_table import HEADINGS, bench_as_lines, row_as_texts

        if self._quiet:
            return
        fastest = {
            runtime: min(row.seconds for row in bench.rows if row.runtime == runtime)
            for runtime in {row.runtime for row in bench.rows}
        }
        rows = (
            (row_as_texts(row), "bold" if row.seconds == fastest[row.runtime] else None) for row in bench.rows
        )
        self._table(HEADINGS, HEADINGS[1:], rows)
        for line in bench_as_lines(bench):
            self.line(line)

    def _table(
        self,
        headings: Sequence[str],
        right: Collection[str],
        rows: Iterable[tuple[Sequence[str], str | None]],
    ) -> None:
        """Rows with their styles. A narrow terminal wraps a long one; cutting it would lose what it says."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
        for cells, style in rows:
            table.add_row(*map(Text, cells), style=style)
        _Console(highlight=False, width=max(self._out.width, _TABLE_WIDTH)).print(table)

    def verdict(self, *verdicts: Verdict) -> None:
        """The one verdict line; the only thing that ``--quiet`` lets through."""
        from ceconv_convert.verification.verdict import verdict_as_line

        passed = all(verdict.passed for verdict in verdicts)
        self._out.print(Text(verdict_as_line(*verdicts), style="green" if passed else "bold red"))

    def wrote(self, path: Path) -> None:
        """What was written, and its size."""
        from ceconv_convert.conversion.plan_table import bytes_as_text

        self.line(f"wrote {path} ({bytes_as_text(path.stat().st_size)})")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show that ``what`` is under way, and how far, until the block ends."""
        shown = self._err.is_terminal and not self._quiet
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), console=self._err, transient=True, disable=not shown
        ) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
