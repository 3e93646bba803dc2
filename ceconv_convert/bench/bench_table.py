"""A measurement as a table."""

from __future__ import annotations

import math

from ceconv_convert.bench.measure import Bench, Row
from ceconv_convert.verification.shapes import as_text

HEADINGS = (
    *("candidate", "time", "speed", "error", "file"),
    *("load", "peak memory", "multiplications", "limit"),
)
_UNSTEADY = 0.25
"""Of the median: where the middle half of the runs is wider, the times mean little."""
_RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch eager"}


def row_as_texts(row: Row) -> tuple[str, ...]:
    """A row, one text a heading; empty where nothing was measured."""
    return (
        title(row.name, row.runtime),
        time_as_text(row.seconds),
        "" if row.ratio is None else f"{row.ratio:.2f}×",
        f"{row.error:.1e}",
        "" if row.size is None else f"{_three_digits(row.size / 1e6)} MB",
        "" if row.load is None else f"{row.load:.2f} s",
        "" if row.memory is None else f"{row.memory / 1e6:.0f} MB",
        "" if row.multiplications is None else f"{_three_digits(row.multiplications / 1e9)}·10⁹",
        "" if row.limit is None else time_as_text(row.limit),
    )


def title(name: str, runtime: str) -> str:
    """A candidate in words."""
    return f"{name}, {_RUNTIMES[runtime]}"


def time_as_text(seconds: float) -> str:
    """In milliseconds, to three digits or one behind the point.

    >>> time_as_text(0.51234), time_as_text(0.0021234), time_as_text(0.0002)
    ('512.3 ms', '2.12 ms', '0.200 ms')
    """
    return f"{_three_digits(1e3 * seconds)} ms"


def _three_digits(number: float) -> str:
    return f"{number:.{max(1, 2 - math.floor(math.log10(number)))}f}" if number > 0 else "0"


def bench_as_lines(bench: Bench) -> list[str]:
    """What the table is about, and which rows are unsteady."""
    unsteady = (row for row in bench.rows if row.high - row.low > _UNSTEADY * row.seconds)
    return [
        f"{as_text(bench.shape)} on {bench.processor}; "
        f"{bench.threads} thread{'' if bench.threads == 1 else 's'}, {bench.provider}",
        "medians of interleaved runs; speed against the original in the same runtime; limit: the "
        f"multiplications at {bench.rate / 1e9:.0f}·10⁹ a second, a large matrix product's rate here",
        *(
            f"{title(row.name, row.runtime)}: a quarter of its runs took more than {time_as_text(row.high)},"
            f" another less than {time_as_text(row.low)}: something else may run on this machine"
            for row in unsteady
        ),
    ]
